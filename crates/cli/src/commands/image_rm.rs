//! `ireko image rm`: as `rmi`, and whole trees.

use super::{Context, each, rmi};
use crate::api::short_id;
use crate::client::{Client, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::table::Table;
use crate::target::Target;
use crate::words;
use ireko_protocol::images::{Removal, Removed};

/// Remove one or more images
///
/// An image that others stand on, or that containers were made from, is not removed; they are named.
/// A container that an image was committed from is none of them: it keeps what it stands on.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Show what would be removed, and what stands in the way; remove nothing
    #[arg(long)]
    dry_run: bool,

    /// Force removal of the image
    #[arg(short, long)]
    force: bool,

    /// Remove the image with all images that stand on it: all of them, or none
    #[arg(long, conflicts_with = "force")]
    tree: bool,

    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Removes, or shows what would be removed.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    if !args.tree && !args.dry_run {
        return rmi::execute(context, &rmi::Args::new(args.force, args.images.clone())).await;
    }
    each(context, &args.images, |client, image| remove(client, image, args)).await
}

async fn remove(client: Client, image: String, args: &Args) -> Result<String> {
    let target = Target::ireko(["images", &image])
        .with_flag("tree", args.tree)
        .with_flag("force", args.force)
        .with_flag("dry_run", args.dry_run);
    let removal: Removal = decode(&client.delete(&target).await?)?;
    if removal.containers.is_empty() {
        return Ok(shown(&removal, args));
    }
    crate::output::line(shown(&removal, args))?;
    let names: Vec<_> = removal.containers.iter().map(|one| one.name.as_str()).collect();
    let message = format!("containers were made from these images: {}", names.join(", "));
    Err(Error::new(ErrorKind::Refused(409), message).hint("remove those containers first"))
}

fn shown(removal: &Removal, args: &Args) -> String {
    if args.tree && args.dry_run {
        let mut table = Table::new(["IMAGE", "ID", "SIZE"]);
        for image in &removal.images {
            let name = match image.names.is_empty() {
                true => "<none>".to_owned(),
                false => image.names.join(", "),
            };
            table.row([name, short_id(&image.id).to_owned(), words::size(image.own_bytes)]);
        }
        return table.to_string().trim_end().to_owned();
    }
    let would = if removal.done { "" } else { "Would be " };
    let lines = removal.removed.iter().map(|removed| match removed {
        Removed::Untagged(name) => format!("{would}{}: {name}", cased("Untagged", would)),
        Removed::Deleted(id) => format!("{would}{}: {id}", cased("Deleted", would)),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A word in the middle of a line begins in lower case.
fn cased(word: &str, before: &str) -> String {
    if before.is_empty() { word.to_owned() } else { word.to_lowercase() }
}
