//! `ireko vhd convert`.

use super::format::FormatName;
use super::shape::Shape;
use super::source::{Source, failed};
use super::work;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use ireko_disk::{Access, Disk, NewDisk, convert, vhd};
use std::path::PathBuf;

/// Copy a whole disk, read through its parents, into a new file of any format
///
/// The new file has no parent and an identity of its own. Its format follows its name (.vhdx, .vhd, .raw, .img) where
/// --output-format does not say it. Blocks of zeros take no space in it.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// Format of the new file: vhdx, vhd or raw
    #[arg(short = 'O', long, value_name = "format")]
    output_format: Option<FormatName>,

    /// Make what Azure takes: a fixed VHD of whole MiB; zeros are added where the disk is none
    #[arg(long, conflicts_with_all = ["fixed", "preallocate", "block_size", "sector"])]
    azure: bool,

    /// Read a VHD file whose checksums are wrong
    #[arg(long)]
    ignore_checksums: bool,

    #[command(flatten)]
    shape: Shape,

    #[arg(value_name = "FROM")]
    from: PathBuf,

    #[arg(value_name = "TO")]
    to: PathBuf,
}

/// Converts and prints the new file's name.
pub async fn execute(args: Args) -> Result<Exit> {
    let format = FormatName::of_new(args.output_format, &args.to, "--output-format")?;
    let disk = match args.ignore_checksums {
        false => args.source.open(&args.from, Access::ReadOnly)?,
        true => args.source.open_damaged(&args.from)?,
    };
    let new = match (args.azure, format) {
        (false, _) => args.shape.new_disk_like(format, &disk)?,
        (true, FormatName::Vhd) => {
            NewDisk::Vhd(vhd::CreateOptions::for_azure(disk.geometry().virtual_size))
        }
        (true, _) => return Err(Error::usage("Azure takes VHD: --output-format vhd")),
    };
    let to = args.to.clone();
    let converting = move |watch: &dyn ireko_disk::Watch| {
        convert(&disk, &to, &new, watch).map_err(failed("cannot create", &to))
    };
    work::watched("converting", converting, |_| {
        output::line(args.to.display())?;
        Ok(Exit::SUCCESS)
    })
    .await
}
