//! `ireko gc`.

use super::Context;
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use crate::{output, words};
use ireko_protocol::usage::Garbage;

/// Remove files that neither an image nor a container needs
///
/// There are few: what a removal leaves is removed with it. Images are not touched, named or not.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Show what would be removed; remove nothing
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what was removed, or would be.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::ireko(["gc"]).with_flag("dry_run", args.dry_run);
    let garbage: Garbage = client.post(&target, Content::none()).await?;
    if args.json {
        output::json(&garbage)?;
        return Ok(Exit::SUCCESS);
    }
    let (each, total) = match garbage.done {
        true => ("Removed", "Total reclaimed space"),
        false => ("Would remove", "Total reclaimable space"),
    };
    for file in &garbage.files {
        output::line(format_args!("{each}: {} ({})", file.file, words::size(file.bytes)))?;
    }
    output::line(format_args!("{total}: {}", words::size(garbage.bytes)))?;
    Ok(Exit::SUCCESS)
}
