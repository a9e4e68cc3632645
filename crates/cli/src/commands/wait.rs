//! `ireko wait`.

use super::{Context, each};
use crate::error::Result;
use crate::exit::Exit;
use crate::waiting::Condition;

/// Block until one or more containers stop, then print their exit codes
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Waits for the containers, one after the other.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    each(context, &args.containers, |client, container| async move {
        let waiting = client.wait(&container, Condition::NotRunning).await?;
        Ok(waiting.code().await?.to_string())
    })
    .await
}
