//! `ireko tag`.

use super::Context;
use crate::error::Result;
use crate::exit::Exit;
use crate::reference::repository_and_tag;
use crate::target::Target;

/// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,

    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    name: String,
}

/// Gives the image one more name.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let (repository, tag) = repository_and_tag(&args.name);
    let target = Target::docker(["images", &args.source, "tag"])
        .with("repo", repository)
        .with_some("tag", tag);
    context.connect().await?.tell(&target).await?;
    Ok(Exit::SUCCESS)
}
