//! `ireko vhd relink`.

use super::source::{Parents, failed};
use super::work;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use ireko_disk::{RelinkOptions, Verify, relink};
use std::path::PathBuf;

/// Tell a differencing disk where its parent is now
///
/// The parent must be the file that the disk was made over, or a copy of it. With --same-bytes it may be another file that
/// holds the same: both parents are compared whole.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Take another file with the same bytes as the old parent, which is there too
    #[arg(long, conflicts_with = "force")]
    same_bytes: bool,

    /// Take any file of the same sector size; over other bytes the disk is damaged
    #[arg(long)]
    force: bool,

    /// The parent's path on the Windows machine that the disk is for, such as C:\disks\base.vhdx
    #[arg(long, value_name = "path")]
    absolute_path: Option<String>,

    #[command(flatten)]
    parents: Parents,

    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[arg(value_name = "PARENT")]
    parent: PathBuf,
}

/// Links, and prints the parent's name.
pub async fn execute(args: Args) -> Result<Exit> {
    let parent = args.parent.clone();
    let linking = move |watch: &dyn ireko_disk::Watch| {
        let options = RelinkOptions {
            relative_path: None,
            absolute_path: args.absolute_path.clone(),
            verify: match (args.same_bytes, args.force) {
                (true, _) => Verify::SameBytes,
                (_, true) => Verify::Force,
                _ => Verify::Identity,
            },
        };
        relink(&args.file, &args.parent, args.parents.folders(), &options, watch)
            .map_err(failed("cannot relink", &args.file))
    };
    work::watched("comparing", linking, |()| {
        output::line(parent.display())?;
        Ok(Exit::SUCCESS)
    })
    .await
}
