//! `ireko update`.

use super::{Context, each};
use crate::client::Content;
use crate::container_options::RestartPolicy;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::quantity;
use crate::target::Target;
use serde::Serialize;

/// Change the restart policy, memory or CPUs of one or more containers
///
/// A restart policy is taken at once. Memory and CPUs are those of a virtual machine: a container that
/// runs keeps them, one that does not has the new ones from its next start on.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Number of CPUs, such as 2
    #[arg(long, value_name = "decimal", value_parser = quantity::nano_cpus)]
    cpus: Option<i64>,

    /// Memory of the container's virtual machine, such as 512m or 2g
    #[arg(short, long, value_name = "bytes", value_parser = quantity::bytes)]
    memory: Option<u64>,

    /// Restart policy: no, on-failure[:max], always, unless-stopped
    #[arg(long, value_name = "string")]
    restart: Option<RestartPolicy>,

    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// The body of `POST /containers/{id}/update`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Changes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nano_cpus: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_policy: Option<&'a RestartPolicy>,
}

/// Changes the containers and prints their names.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let changes = Changes {
        memory: args.memory,
        nano_cpus: args.cpus,
        restart_policy: args.restart.as_ref(),
    };
    if args.memory.is_none() && args.cpus.is_none() && args.restart.is_none() {
        return Err(Error::usage(
            "nothing is to be changed: --restart, --memory or --cpus says what",
        ));
    }
    let changes = &changes;
    each(context, &args.containers, |client, container| async move {
        let target = Target::docker(["containers", &container, "update"]);
        client.post::<serde_json::Value>(&target, Content::json(changes)?).await?;
        Ok(container)
    })
    .await
}
