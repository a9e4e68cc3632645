//! `ireko rename`.

use super::Context;
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;

/// Rename a container
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(value_name = "CONTAINER")]
    container: String,

    #[arg(value_name = "NEW_NAME")]
    name: String,
}

/// Gives the container another name.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let target = Target::docker(["containers", &args.container, "rename"]).with("name", &args.name);
    context.connect().await?.tell(&target).await?;
    Ok(Exit::SUCCESS)
}
