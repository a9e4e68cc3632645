//! `ireko image rename`.

use super::Context;
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;

/// Give an image another name in place of one it has; no file is renamed
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(value_name = "IMAGE[:TAG]")]
    image: String,

    #[arg(value_name = "NEW_NAME[:TAG]")]
    name: String,
}

/// Moves the name.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let target = Target::ireko(["images", &args.image, "rename"]).with("name", &args.name);
    context.connect().await?.tell(&target).await?;
    Ok(Exit::SUCCESS)
}
