//! `ireko wait`.

use super::{Context, each};
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use crate::waiting::Condition;

/// Block until containers stop and print their exit codes, or until they are up
///
/// With --for it waits for a sign that each container is up, prints its name, and fails when the
/// container ends first or the time is over: `ireko wait --for port=80 --timeout 60 web`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Wait until it is up: agent (commands can be executed), ip (it has an address), log=REGEX (it
    /// wrote such a line), port=N (it takes connections to TCP port N) or healthy (its health check
    /// succeeds)
    #[arg(long = "for", value_name = "agent|ip|log=REGEX|port=N|healthy")]
    sign: Option<String>,

    /// Give up after so many seconds (180)
    #[arg(long, value_name = "seconds", requires = "sign")]
    timeout: Option<u64>,

    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Waits for the containers, one after the other.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let timeout = args.timeout.map(|seconds| seconds.to_string());
    each(context, &args.containers, |client, container| {
        let timeout = timeout.clone();
        async move {
            let Some(sign) = &args.sign else {
                let waiting = client.wait(&container, Condition::NotRunning).await?;
                return Ok(waiting.code().await?.to_string());
            };
            let target = Target::ireko(["containers", &container, "wait"])
                .with("for", sign)
                .with_some("timeout", timeout);
            client.tell(&target).await?;
            Ok(container)
        }
    })
    .await
}
