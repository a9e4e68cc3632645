//! `ireko rmi`.

use super::{Context, image_rm};
use crate::error::Result;
use crate::exit::Exit;

/// Remove one or more images
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,

    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Removes names, and images that have lost their last one.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    image_rm::execute(context, &image_rm::Args::of(args.images.clone(), args.force)).await
}
