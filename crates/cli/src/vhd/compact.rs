//! `ireko vhd compact`.

use super::source::failed;
use super::work;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::words::binary_size;
use ireko_disk::{CompactOptions, compact};
use std::path::PathBuf;

/// Make a disk's file as short as what it holds
///
/// Blocks of zeros give up their space, and blocks at the end move into the gaps. The disk reads the same, also after a
/// crash on the way, and its children stay its children.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Only close gaps; do not read blocks to find zeros
    #[arg(long)]
    keep_zeros: bool,

    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Compacts and prints the sizes before and after.
pub async fn execute(args: Args) -> Result<Exit> {
    let compacting = move |watch: &dyn ireko_disk::Watch| {
        let options = CompactOptions { free_zeros: !args.keep_zeros };
        compact(&args.file, &options, watch).map_err(failed("cannot compact", &args.file))
    };
    work::watched("compacting", compacting, |done| {
        let size = |bytes| binary_size(bytes);
        output::line(format_args!(
            "file size {} -> {}, on disk {} -> {}",
            size(done.before.length),
            size(done.after.length),
            size(done.before.allocated),
            size(done.after.allocated)
        ))?;
        Ok(Exit::SUCCESS)
    })
    .await
}
