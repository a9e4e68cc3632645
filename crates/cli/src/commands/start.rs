//! `ireko start`.

use super::run::{Start, attach_target};
use super::{Context, each};
use crate::api::Container;
use crate::client::Content;
use crate::detach::{self, Keys};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::session::Session;
use crate::signals::Proxy;
use crate::target::Target;
use crate::terminal;
use crate::waiting::Condition;

/// Start one or more stopped containers
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,

    /// Override the key sequence for detaching from a terminal
    #[arg(long, value_name = "string", default_value = detach::DEFAULT, hide_default_value = true)]
    detach_keys: Keys,

    /// Attach the container's STDIN
    #[arg(short, long)]
    interactive: bool,

    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Starts the containers; with `-a` or `-i` stays with the one.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    if !args.attach && !args.interactive {
        return each(context, &args.containers, |client, container| async move {
            client.tell(&Target::docker(["containers", &container, "start"])).await?;
            Ok(container)
        })
        .await;
    }
    let [container] = &args.containers[..] else {
        return Err(Error::local("you cannot start and attach multiple containers at once"));
    };
    let client = context.connect().await?;
    let target = Target::docker(["containers", container, "json"]);
    let Container { id, config, state } = client.get(&target).await?;
    if state.running {
        return Err(Error::local(format!("container {container} is running already"))
            .hint(format!("`ireko attach {container}` joins it")));
    }
    let stdin = args.interactive && config.open_stdin;
    terminal::require(config.tty, stdin)?;
    let proxied = !config.tty;
    let target = attach_target(&id, stdin, &args.detach_keys);
    let session = Session {
        link: client.hijack(&target, Content::none()).await?,
        tty: config.tty,
        stdin,
        keys: args.detach_keys.clone(),
        proxied,
        greeting: None,
    };
    let proxy = proxied.then(|| Proxy::new(client.clone(), id.clone()));
    let start = Start { client, id, session, proxy, tty: config.tty, removed: false };
    start.run(Condition::NextExit).await
}
