//! `ireko rm`.

use super::{Context, each};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::target::Target;

/// Remove one or more containers
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    force: bool,

    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    volumes: bool,

    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Removes the containers; with `--force` one that is not there is no failure.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    each(context, &args.containers, |client, container| async move {
        let target = Target::docker(["containers", &container])
            .with_flag("force", args.force)
            .with_flag("v", args.volumes);
        match client.delete(&target).await {
            Ok(_) => Ok(container),
            Err(error) if args.force && error.status() == Some(404) => {
                crate::output::note(error.report());
                Ok(container)
            }
            Err(error) => Err(with_cure(error, &container)),
        }
    })
    .await
}

fn with_cure(error: Error, container: &str) -> Error {
    match error.status() {
        Some(409) => error.hint(format!("`ireko rm -f {container}` kills it first")),
        _ => error,
    }
}
