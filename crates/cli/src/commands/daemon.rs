//! `ireko daemon`: its options; `ireko daemon stop`.
//!
//! The daemon itself is another room; the host binary hands over to it.

use super::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a daemon may take to finish what it is doing.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(10);

/// Run the daemon in the foreground
///
/// Other commands start it by themselves. Containers go on when it ends.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Leave the terminal's session
    #[arg(long, hide = true)]
    pub background: bool,

    /// How many virtual machines stand by for containers of each shape that was used, so that the
    /// next starts in a moment; each takes some 70 MB of memory, for a quarter of an hour at most
    #[arg(long, value_name = "count", env = "IREKO_POOL", default_value_t = 1)]
    pub pool: usize,

    /// A control group (version 2) of its own, in which each virtual machine gets one with limits;
    /// the default is the slice ireko.slice, where the daemon runs in it
    #[arg(long, value_name = "folder", env = "IREKO_CGROUP")]
    pub cgroup: Option<PathBuf>,

    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What may be done with a daemon.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Verb {
    /// End the running daemon; containers go on
    Stop,
}

/// Ends the daemon and waits until it is gone; none running is what was wanted.
pub async fn stop(context: &Context) -> Result<Exit> {
    let Some(client) = context.reach.running().await? else {
        output::note(format_args!("no daemon runs for {}", context.reach.places.root.display()));
        return Ok(Exit::SUCCESS);
    };
    client.tell(&Target::ireko(["daemon", "stop"])).await?;
    let deadline = Instant::now() + STOP_PATIENCE;
    while context.reach.running().await?.is_some() {
        if Instant::now() >= deadline {
            let message = "the daemon was told to end and still listens";
            return Err(Error::new(ErrorKind::Unreachable, message)
                .hint(format!("see {}", context.reach.places.root.join("log").display())));
        }
        sleep(POLL).await;
    }
    Ok(Exit::SUCCESS)
}
