//! `ireko kill`.

use super::{Context, each};
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;

/// Kill one or more running containers
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    signal: Option<String>,

    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Sends the signal; KILL where none is named.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    each(context, &args.containers, |client, container| async move {
        let target = Target::docker(["containers", &container, "kill"])
            .with_some("signal", args.signal.as_deref());
        client.tell(&target).await?;
        Ok(container)
    })
    .await
}
