//! `ireko image merge`.

use super::Context;
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::lines;
use crate::output;
use crate::target::Target;
use ireko_protocol::images::{Merged, Removed};
use std::num::NonZeroU32;

/// Merge an image with those it stands on into a new image
///
/// The new image is one file with the bytes of all that were merged, over the image below. By
/// default an image is merged with the one right below it. The images that are merged stay as they
/// are. An interrupt undoes what has begun. `ireko image merge api flat --all`; `ireko image merge api
/// api --delete`, in its own place.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Merge all files down to the base: the new image stands on nothing
    #[arg(long)]
    all: bool,

    /// Put the new image in the place of IMAGE, and remove the images that were merged
    ///
    /// Whatever stands on IMAGE stands on the new image then, running containers too. Refused while
    /// there are containers made from IMAGE. Images further down that are used otherwise stay.
    #[arg(long)]
    delete: bool,

    /// How many disk files to merge, IMAGE's own included
    #[arg(long, value_name = "number", conflicts_with = "all", default_value = "2")]
    depth: NonZeroU32,

    /// Print what was done as JSON
    #[arg(long)]
    json: bool,

    #[arg(value_name = "IMAGE")]
    image: String,

    /// What the new image is called; no image may have that name
    #[arg(value_name = "NEWNAME")]
    name: String,
}

/// Merges and prints the new image's id; what else was done is told on standard error.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let depth = (!args.all).then(|| args.depth.to_string());
    let target = Target::ireko(["images", &args.image, "merge"])
        .with("to", &args.name)
        .with_some("depth", depth)
        .with_flag("all", args.all)
        .with_flag("delete", args.delete);
    let merged: Merged = lines::follow(&client, &target, Content::none(), "merging").await?;
    if args.json {
        output::json(&merged)?;
        return Ok(Exit::SUCCESS);
    }
    for removed in &merged.removed {
        match removed {
            Removed::Untagged(name) => output::note(format_args!("Untagged: {name}")),
            Removed::Deleted(id) => output::note(format_args!("Deleted: {id}")),
        }
    }
    for kept in &merged.kept {
        output::note(format_args!("Kept: {kept}"));
    }
    output::line(merged.id)?;
    Ok(Exit::SUCCESS)
}
