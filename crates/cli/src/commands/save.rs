//! `ireko save`, `ireko image save`.

use super::Context;
use crate::archive_to::{fetch, refuse_terminal};
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use std::path::PathBuf;

/// Save one or more images to a tar archive (streamed to STDOUT by default)
///
/// The archive is docker's, and an OCI image layout too: `docker load`, `ireko load`, skopeo and umoci read
/// it. A name without a tag stands for all its tags. (`ireko image export` writes disks.)
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "file")]
    output: Option<PathBuf>,

    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Writes the archive.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let file = args.output.as_deref();
    refuse_terminal(file, "ireko save IMAGE > FILE, or ireko save -o FILE IMAGE")?;
    let client = context.connect().await?;
    let names = args.images.iter();
    let target =
        names.fold(Target::docker(["images", "get"]), |target, name| target.with("names", name));
    fetch(&client, &target, file, "saving").await?;
    Ok(Exit::SUCCESS)
}
