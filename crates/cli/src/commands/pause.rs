//! `ireko pause`.

use super::{Context, each};
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;

/// Pause all processes within one or more containers
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Pauses the containers.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    each(context, &args.containers, |client, container| async move {
        let target = Target::docker(["containers", &container, "pause"]);
        client.tell(&target).await?;
        Ok(container)
    })
    .await
}
