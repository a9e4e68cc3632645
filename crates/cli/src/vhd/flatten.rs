//! `ireko vhd flatten`.

use super::source::{Source, failed};
use super::work;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use ireko_disk::{Access, Disk, NewDisk, convert};
use std::path::PathBuf;

/// Write a disk and all its parents into one new file of the same format
///
/// As convert without options. The files of the disk stay as they are.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[arg(value_name = "TO")]
    to: PathBuf,
}

/// Flattens and prints the new file's name.
pub async fn execute(args: Args) -> Result<Exit> {
    let disk = args.source.open(&args.file, Access::ReadOnly)?;
    let new = NewDisk::like(disk.format(), disk.geometry());
    let to = args.to.clone();
    let flattening = move |watch: &dyn ireko_disk::Watch| {
        convert(&disk, &to, &new, watch).map_err(failed("cannot create", &to))
    };
    work::watched("flattening", flattening, |_| {
        output::line(args.to.display())?;
        Ok(Exit::SUCCESS)
    })
    .await
}
