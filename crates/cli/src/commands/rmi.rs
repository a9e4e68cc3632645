//! `ireko rmi`.

use super::{Context, each};
use crate::client::decode;
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use serde::Deserialize;

/// Remove one or more images
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,

    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Args {
    pub fn new(force: bool, images: Vec<String>) -> Self {
        Self { force, images }
    }
}

#[derive(Deserialize)]
enum Removed {
    Untagged(String),
    Deleted(String),
}

/// Removes names, and images that have lost their last one.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    each(context, &args.images, |client, image| async move {
        let target = Target::docker(["images", &image]).with_flag("force", args.force);
        let removed: Vec<Removed> = decode(&client.delete(&target).await?)?;
        let lines = removed.iter().map(|removed| match removed {
            Removed::Untagged(name) => format!("Untagged: {name}"),
            Removed::Deleted(id) => format!("Deleted: {id}"),
        });
        Ok(lines.collect::<Vec<_>>().join("\n"))
    })
    .await
}
