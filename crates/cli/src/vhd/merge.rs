//! `ireko vhd merge`.

use super::shape::block_size;
use super::source::{Parents, failed};
use super::work;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::quantity;
use ireko_disk::{MergeOptions, Watch, merge};
use std::path::{Path, PathBuf};

/// Merge a differencing disk into its parent, or several layers into a new file
///
/// Without --into the parent takes over what the child holds, and the child's file is removed; no other disk may
/// have that parent. Interrupted, it goes on where it stopped when called again. Children of the child go on
/// with the parent once `ireko vhd relink` has told them its place.
///
/// With --into the files stay as they are, and the new one holds what the topmost layers hold together, over
/// the parent of the lowest of them.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Write a new file and leave the merged ones as they are
    #[arg(long, value_name = "file")]
    into: Option<PathBuf>,

    /// With --into: how many layers to merge, the disk itself included (default 2)
    #[arg(long, value_name = "number", requires = "into")]
    depth: Option<usize>,

    /// With --into: merge all layers into a disk without parent
    #[arg(long, requires = "into", conflicts_with = "depth")]
    all: bool,

    /// With --into: unit in which the new file takes space (default: as the disk's)
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes, requires = "into")]
    block_size: Option<u64>,

    /// With --into: take over the disk's identity, so that its children may be relinked to the new file
    #[arg(long, requires = "into")]
    keep_identity: bool,

    #[command(flatten)]
    parents: Parents,

    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Merges and prints the name of the file that holds the result.
pub async fn execute(args: Args) -> Result<Exit> {
    let chain = args.parents.of(&args.file)?;
    let [_, parent, ..] = &chain[..] else {
        let file = crate::table::printable(&args.file.display().to_string());
        return Err(Error::local(format!("{file} has no parent to merge with")));
    };
    let result = args.into.clone().unwrap_or_else(|| parent.clone());
    let merging = move |watch: &dyn Watch| match &args.into {
        None => merge::into_parent(&chain, args.parents.folders(), watch)
            .map_err(failed("cannot merge", &args.file)),
        Some(into) => merge_into_new(&args, &chain, into, watch),
    };
    work::watched("merging", merging, |()| {
        output::line(result.display())?;
        Ok(Exit::SUCCESS)
    })
    .await
}

fn merge_into_new(args: &Args, chain: &[PathBuf], into: &Path, watch: &dyn Watch) -> Result<()> {
    let layers = match (args.all, args.depth) {
        (true, _) => chain.len(),
        (false, depth) => depth.unwrap_or(2),
    };
    if !(2..=chain.len()).contains(&layers) {
        return Err(Error::usage(format!(
            "--depth {layers}: the disk has {} layers, and at least 2 are merged",
            chain.len()
        )));
    }
    let options = MergeOptions {
        block_size: block_size(args.block_size)?,
        keep_identity: args.keep_identity,
        ..MergeOptions::default()
    };
    merge::into_new(chain, layers, into, &options, watch)
        .map(drop)
        .map_err(failed("cannot merge", &args.file))
}
