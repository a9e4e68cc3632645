//! `ireko run`: create, attach, wait, start, as docker's command does it.
//!
//! The stream and the wait are in place before the start, so no byte and no end can be missed.

use super::{Context, create};
use crate::client::{Client, Content};
use crate::container_options::{ContainerOptions, Streams};
use crate::detach::{self, Keys};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::session::{End, Resized, Session, follow_size};
use crate::signals::Proxy;
use crate::target::Target;
use crate::waiting::{Condition, Waiting};
use crate::{output, terminal};
use std::time::Duration;

/// How long a container that could not start may take to go away (`--rm`).
const REMOVAL_PATIENCE: Duration = Duration::from_secs(10);

/// Create and run a new container from an image
#[derive(clap::Args, Clone, Debug)]
#[command(override_usage = "ireko run [OPTIONS] IMAGE [COMMAND] [ARG...]")]
#[command(disable_help_flag = true, next_display_order = None)]
pub struct Args {
    /// Run the container in the background and print its id
    #[arg(short, long)]
    detach: bool,

    /// Override the key sequence for detaching from a terminal
    #[arg(long, value_name = "string", default_value = detach::DEFAULT, hide_default_value = true)]
    detach_keys: Keys,

    /// Pass signals on to the process
    #[arg(
        long, value_name = "bool", default_value_t = true, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, hide_possible_values = true,
        action = clap::ArgAction::Set
    )]
    sig_proxy: bool,

    #[command(flatten)]
    options: ContainerOptions,
}

/// Runs the container; the status is the container's own where it is not in the background.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    if args.detach {
        return in_background(context, args).await;
    }
    let options = &args.options;
    terminal::require(options.tty, options.interactive)?;
    let client = context.connect().await?;
    let id = create::create(&client, options, Streams::Attached).await?;
    let proxy = args.sig_proxy.then(|| Proxy::new(client.clone(), id.clone()));
    let target = attach_target(&id, options.interactive, &args.detach_keys);
    let link = client.hijack(&target, Content::none()).await?;
    let session = Session {
        link,
        tty: options.tty,
        stdin: options.interactive,
        keys: args.detach_keys.clone(),
        proxied: args.sig_proxy,
        greeting: None,
    };
    let condition = if options.remove { Condition::Removed } else { Condition::NextExit };
    let start = Start { client, id, session, proxy, tty: options.tty, removed: options.remove };
    start.run(condition).await
}

async fn in_background(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let id = create::create(&client, &args.options, Streams::Detached).await?;
    client.tell(&Target::docker(["containers", &id, "start"])).await?;
    output::line(&id)?;
    Ok(Exit::SUCCESS)
}

/// Where a container's streams are joined.
pub fn attach_target(id: &str, stdin: bool, keys: &Keys) -> Target {
    Target::docker(["containers", id, "attach"])
        .with("stream", "1")
        .with_flag("stdin", stdin)
        .with("stdout", "1")
        .with("stderr", "1")
        .with("detachKeys", keys.to_string())
}

/// A container about to be started with us attached to it.
pub struct Start {
    /// Its daemon.
    pub client: Client,
    /// Its id.
    pub id: String,
    /// Its streams.
    pub session: Session,
    /// Who passes signals on, if anybody.
    pub proxy: Option<Proxy>,
    /// It has a terminal, whose size follows ours.
    pub tty: bool,
    /// It goes away when it ends, also when it cannot start.
    pub removed: bool,
}

impl Start {
    /// Starts it and stays with it until it ends or the user leaves.
    pub async fn run(self, condition: Condition) -> Result<Exit> {
        let waiting = self.client.wait(&self.id, condition).await?;
        let mut session = tokio::spawn(self.session.run());
        let start = Target::docker(["containers", &self.id, "start"]);
        tokio::select! {
            started = self.client.tell(&start) => if let Err(error) = started {
                session.abort();
                // Its end restores the terminal, which must come before any message.
                let _ = session.await;
                if self.removed {
                    let _ = tokio::time::timeout(REMOVAL_PATIENCE, waiting.code()).await;
                }
                return Err(error);
            },
            error = insisted(&self.proxy) => return Err(error),
        }
        if let Some(proxy) = &self.proxy {
            proxy.started();
        }
        let resizing = self
            .tty
            .then(|| tokio::spawn(follow_size(self.client.clone(), Resized::Container(self.id))));
        let exit = tokio::select! {
            exit = stay(&mut session, waiting) => exit,
            error = insisted(&self.proxy) => {
                session.abort();
                let _ = session.await;
                Err(error)
            }
        };
        if let Some(resizing) = resizing {
            resizing.abort();
        }
        exit
    }
}

/// Stays until the session is over; its status, or the container's.
pub async fn stay(
    session: &mut tokio::task::JoinHandle<Result<End>>,
    waiting: Waiting,
) -> Result<Exit> {
    let end = session.await.map_err(|error| Error::local("move the streams").because(error))?;
    match end? {
        End::Finished => waiting.exit().await,
        End::Detached => Ok(Exit::SUCCESS),
        End::Signal(signal) => Ok(Exit::of_signal(signal)),
    }
}

/// The error for a user who insists; never, where signals are not passed on.
pub async fn insisted(proxy: &Option<Proxy>) -> Error {
    match proxy {
        Some(proxy) => proxy.insisted().await,
        None => std::future::pending().await,
    }
    Error::local("got 3 SIGTERM/SIGINTs, forcefully exiting")
        .hint("the container may still run: `ireko ps`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::Reach;
    use crate::testkit::Fake;
    use clap::Parser;
    use ireko_protocol::places::Places;
    use std::sync::{Arc, Mutex};

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// Runs `words` against a daemon that starts containers as `start` says; returns the result
    /// and the requests in the order they came.
    async fn run(words: &[&str], start: (u16, &'static str)) -> (Result<Exit>, Vec<String>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        let fake = Fake::upgrading(
            move |request| {
                let verb = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                noted.lock().unwrap().push(match request.uri().query() {
                    Some(query) => format!("{verb}?{query}"),
                    None => verb.clone(),
                });
                match verb.as_str() {
                    "create" => Fake::json(201, r#"{"Id":"0123","Warnings":[]}"#),
                    "attach" => Fake::switch(),
                    "wait" => Fake::json(200, r#"{"StatusCode":42}"#),
                    "start" => Fake::json(start.0, start.1),
                    _ => Fake::json(404, r#"{"message":"page not found"}"#),
                }
            },
            |_| async {},
        );
        let places = Places { root: "/r".into(), cache: "/c".into(), runtime: "/run/r".into() };
        let host = Some(fake.client().socket().to_owned());
        let context = Context { reach: Reach { places, host, cache: None, accel: None } };
        let line = Line::try_parse_from([&["run"], words].concat()).unwrap();
        let result = execute(&context, &line.args).await;
        let asked = asked.lock().unwrap().clone();
        (result, asked)
    }

    const ATTACH: &str = "attach?stream=1&stdout=1&stderr=1&detachKeys=ctrl-p%2Cctrl-q";

    #[tokio::test]
    async fn stream_and_wait_are_in_place_before_the_start() {
        let (result, asked) = run(&["--name", "web", "base"], (204, "")).await;
        assert_eq!(result.unwrap(), Exit(42));
        assert_eq!(asked, ["create?name=web", ATTACH, "wait?condition=next-exit", "start"]);
    }

    #[tokio::test]
    async fn one_to_be_removed_is_waited_for_until_it_is_gone() {
        let (result, asked) = run(&["--rm", "base"], (204, "")).await;
        assert_eq!(result.unwrap(), Exit(42));
        assert_eq!(asked, ["create", ATTACH, "wait?condition=removed", "start"]);
    }

    #[tokio::test]
    async fn a_start_that_fails_is_the_error() {
        let refusal = r#"{"message":"exec: \"zz\": executable file not found in $PATH"}"#;
        for words in [&["base", "zz"][..], &["--rm", "base", "zz"]] {
            let error = run(words, (400, refusal)).await.0.unwrap_err();
            assert_eq!(crate::exit::status(crate::exit::Verb::Run, &error), Exit(127));
        }
    }

    #[tokio::test]
    async fn in_the_background_nothing_is_attached() {
        let (result, asked) = run(&["-d", "base"], (204, "")).await;
        assert_eq!(result.unwrap(), Exit::SUCCESS);
        assert_eq!(asked, ["create", "start"]);
    }
}
