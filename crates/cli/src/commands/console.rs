//! `ireko console`.

use super::Context;
use super::run::stay;
use crate::api::Container;
use crate::client::Content;
use crate::detach::{self, Keys};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::session::Session;
use crate::target::Target;
use crate::waiting::Condition;

/// Sit down at the serial console of a running machine
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Override the key sequence for leaving the console
    #[arg(long, value_name = "string", default_value = detach::DEFAULT, hide_default_value = true)]
    detach_keys: Keys,

    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Joins the machine's serial line until it ends or the user leaves.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::docker(["containers", &args.container, "json"]);
    let Container { id, state, .. } = client.get(&target).await?;
    if !state.running {
        return Err(Error::local(format!("container {} does not run", args.container))
            .hint("start it first: `ireko start`"));
    }
    let waiting = client.wait(&id, Condition::NotRunning).await?;
    let target = Target::ireko(["containers", &id, "console"])
        .with("detachKeys", args.detach_keys.to_string());
    let greeting = format!("The console of {}; {} leaves it", args.container, args.detach_keys);
    let session = Session {
        link: client.hijack(&target, Content::none()).await?,
        tty: true,
        stdin: true,
        keys: args.detach_keys.clone(),
        proxied: false,
        greeting: Some(greeting),
    };
    stay(&mut tokio::spawn(session.run()), waiting).await
}
