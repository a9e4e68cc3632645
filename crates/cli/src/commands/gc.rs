//! `ireko gc`.

use super::Context;
use crate::client::{Client, Content};
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use crate::{lines, output, words};
use ireko_protocol::usage::{Folded, Garbage};
use serde::Serialize;

/// Remove files that neither an image nor a container needs
///
/// There are few: what a removal leaves is removed with it. Images are not touched, named or not.
///
/// A disk that was committed often, and whose images were removed since, stands on many layers that
/// are no images any more. Ireko folds long rows of them into one file each by itself, where that
/// means little copying; --fold folds all of them. Every disk reads as before, running containers go
/// on, and images' own files stay as they are.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Show what would be done; change nothing
    #[arg(long)]
    dry_run: bool,

    /// Fold layers that are no images any more into one file each, where only one disk or image stands
    /// on them
    ///
    /// Needs as much space as the layers of one row take, until that is done. An interrupt undoes the
    /// row that is being folded.
    #[arg(long)]
    fold: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Collected<'a> {
    #[serde(flatten)]
    garbage: &'a Garbage,
    #[serde(skip_serializing_if = "Option::is_none")]
    folded: Option<&'a Folded>,
}

/// Prints what was removed and folded, or would be.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::ireko(["gc"]).with_flag("dry_run", args.dry_run);
    let garbage: Garbage = client.post(&target, Content::none()).await?;
    let folded = match args.fold {
        true => Some(fold(&client, args.dry_run).await?),
        false => None,
    };
    if args.json {
        output::json(&Collected { garbage: &garbage, folded: folded.as_ref() })?;
        return Ok(Exit::SUCCESS);
    }
    let (removed, each, total) = match garbage.done {
        true => ("Removed", "Folded", "Total reclaimed space"),
        false => ("Would remove", "Would fold", "Total reclaimable space"),
    };
    for file in &garbage.files {
        output::line(format_args!("{removed}: {} ({})", file.file, words::size(file.bytes)))?;
    }
    let Folded { folds, kept, freed_bytes, .. } = folded.unwrap_or_default();
    for fold in &folds {
        let (layers, bytes) = (fold.layers.len(), words::size(fold.bytes));
        output::line(format_args!("{each}: {layers} layers, {bytes}, into {}", fold.file))?;
    }
    for kept in &kept {
        output::note(format_args!("Kept: {kept}"));
    }
    let bytes = garbage.bytes.saturating_add(freed_bytes);
    output::line(format_args!("{total}: {}", words::size(bytes)))?;
    Ok(Exit::SUCCESS)
}

async fn fold(client: &Client, dry_run: bool) -> Result<Folded> {
    let target = Target::ireko(["fold"]).with_flag("dry_run", dry_run);
    lines::follow(client, &target, Content::none(), "folding").await
}
