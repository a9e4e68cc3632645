//! `ireko vhd convert`.

use super::format::FormatName;
use super::shape::Shape;
use super::source::{Source, failed};
use super::work;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use ireko_disk::{Access, convert};
use std::path::PathBuf;

/// Copy a whole disk, read through its parents, into a new file of any format
///
/// The new file has no parent and an identity of its own. Its format follows its name (.vhdx, .raw, .img) where
/// --output-format does not say it. Blocks of zeros take no space in it.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// Format of the new file: vhdx or raw
    #[arg(short = 'O', long, value_name = "format")]
    output_format: Option<FormatName>,

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
    let disk = args.source.open(&args.from, Access::ReadOnly)?;
    let new = args.shape.new_disk_like(format, &disk)?;
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
