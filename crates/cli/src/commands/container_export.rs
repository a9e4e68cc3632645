//! `ireko export`, `ireko container export`.

use super::Context;
use crate::archive_to::{fetch, refuse_terminal};
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use std::path::PathBuf;

/// Export a container's filesystem as a tar archive
///
/// All of its own disk, running or not; what is mounted over that is not in it. `ireko import` makes
/// an image of such an archive. (`ireko image export` writes disks.)
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "file")]
    output: Option<PathBuf>,

    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Writes the archive.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let file = args.output.as_deref();
    refuse_terminal(file, "ireko export CONTAINER > FILE, or ireko export -o FILE CONTAINER")?;
    let client = context.connect().await?;
    let target = Target::docker(["containers", &args.container, "export"]);
    fetch(&client, &target, file, "exporting").await?;
    Ok(Exit::SUCCESS)
}
