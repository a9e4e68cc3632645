//! `ireko network rm`.

use super::{Context, each};
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;

/// Remove one or more networks that no running container uses
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Removes the networks and prints their names.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    each(context, &args.networks, |client, name| async move {
        client.delete(&Target::docker(["networks", &name])).await?;
        Ok(name)
    })
    .await
}
