//! `ireko image rm`: as `rmi`, and whole trees. What goes is shown under the names it was given.

use super::{Context, each};
use crate::api::short_id;
use crate::client::{Client, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::output;
use crate::table::Table;
use crate::target::Target;
use crate::words;
use ireko_protocol::images::{Removal, Removed};

/// Remove one or more images
///
/// An image that others stand on, or that containers were made from, is not removed; they are named.
/// A container that an image was committed from is none of them: it keeps what it stands on. `ireko image
/// rm web --tree --dry-run` shows what would go with all that stands on web.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Show what would be removed, and what stands in the way; remove nothing
    #[arg(long)]
    dry_run: bool,

    /// Force removal of the image
    #[arg(short, long)]
    force: bool,

    /// Print what was done, or would be, as JSON: an object for each image
    #[arg(long)]
    json: bool,

    /// Remove the image with all images that stand on it: all of them, or none
    #[arg(long, conflicts_with = "force")]
    tree: bool,

    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Args {
    /// These images, each by itself.
    pub fn of(images: Vec<String>, force: bool) -> Self {
        Self { dry_run: false, force, json: false, tree: false, images }
    }
}

/// Removes, or shows what would be removed.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    each(context, &args.images, |client, image| remove(client, image, args)).await
}

async fn remove(client: Client, image: String, args: &Args) -> Result<String> {
    let target = Target::ireko(["images", &image])
        .with_flag("tree", args.tree)
        .with_flag("force", args.force)
        .with_flag("dry_run", args.dry_run);
    let removal: Removal = decode(&client.delete(&target).await?)?;
    let told = match args.json {
        true => serde_json::to_string_pretty(&removal)
            .map_err(|error| Error::local("write JSON").because(error))?,
        false => shown(&removal, args),
    };
    if removal.containers.is_empty() {
        return Ok(told);
    }
    output::line(told)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_protocol::images::RemovedImage;

    #[test]
    fn what_went_is_shown_as_it_was_called() {
        let id = "sha256:0123456789abcdef".to_owned();
        let names = vec!["Win2016_Hyper-V:latest".to_owned()];
        let mut removal = Removal {
            done: true,
            removed: vec![Removed::Untagged(names[0].clone()), Removed::Deleted(id.clone())],
            ..Removal::default()
        };
        let args = Args::of(vec!["win2016_hyper-v".into()], false);
        let told = "Untagged: Win2016_Hyper-V:latest\nDeleted: sha256:0123456789abcdef";
        assert_eq!(shown(&removal, &args), told);
        removal.done = false;
        let told = "Would be untagged: Win2016_Hyper-V:latest\n\
                    Would be deleted: sha256:0123456789abcdef";
        assert_eq!(shown(&removal, &Args { dry_run: true, ..args.clone() }), told);
        removal.images = vec![RemovedImage { id, names, level: 0, own_bytes: 1_000_000 }];
        let told = "\
IMAGE                    ID             SIZE
Win2016_Hyper-V:latest   0123456789ab   1MB";
        assert_eq!(shown(&removal, &Args { dry_run: true, tree: true, ..args }), told);
    }
}
