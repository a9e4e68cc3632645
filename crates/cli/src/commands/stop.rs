//! `ireko stop`.

use super::{Context, each};
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;

/// Stop one or more running containers
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string")]
    signal: Option<String>,

    /// Seconds to wait before killing the container; -1 waits for ever
    #[arg(short, long, visible_alias = "time", value_name = "int", allow_negative_numbers = true)]
    timeout: Option<i64>,

    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Stops the containers, one after the other.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    each(context, &args.containers, |client, container| async move {
        let target = Target::docker(["containers", &container, "stop"])
            .with_some("signal", args.signal.as_deref())
            .with_some("t", args.timeout.map(|seconds| seconds.to_string()));
        client.tell(&target).await?;
        Ok(container)
    })
    .await
}
