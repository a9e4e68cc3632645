//! `ireko attach`.

use super::Context;
use super::run::{attach_target, insisted, stay};
use crate::api::Container;
use crate::client::Content;
use crate::detach::{self, Keys};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::session::{Resized, Session, follow_size};
use crate::signals::Proxy;
use crate::target::Target;
use crate::terminal;
use crate::waiting::Condition;

/// Attach local standard input, output, and error streams to a running container
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Override the key sequence for detaching from a terminal
    #[arg(long, value_name = "string", default_value = detach::DEFAULT, hide_default_value = true)]
    detach_keys: Keys,

    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,

    /// Pass signals on to the process
    #[arg(
        long, value_name = "bool", default_value_t = true, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, hide_possible_values = true,
        action = clap::ArgAction::Set
    )]
    sig_proxy: bool,

    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Joins the container until it ends or the user leaves.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::docker(["containers", &args.container, "json"]);
    let Container { id, config, state } = client.get(&target).await?;
    let refused = match (state.running, state.paused, state.restarting) {
        (false, ..) => Some(("a stopped", "start it first: `ireko start -a`")),
        (_, true, _) => Some(("a paused", "let it go on first: `ireko unpause`")),
        (_, _, true) => Some(("a restarting", "wait until it runs: `ireko ps`")),
        _ => None,
    };
    if let Some((how, cure)) = refused {
        return Err(Error::local(format!("cannot attach to {how} container")).hint(cure));
    }
    let stdin = !args.no_stdin && config.open_stdin;
    terminal::require(config.tty, stdin)?;
    let waiting = client.wait(&id, Condition::NotRunning).await?;
    let proxied = args.sig_proxy && !config.tty;
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
    if let Some(proxy) = &proxy {
        proxy.started();
    }
    if config.tty {
        tokio::spawn(follow_size(client.clone(), Resized::Container(id)));
    }
    let mut session = tokio::spawn(session.run());
    tokio::select! {
        exit = stay(&mut session, waiting) => exit,
        error = insisted(&proxy) => Err(error),
    }
}
