//! `ireko exec`.

use super::Context;
use crate::api::WithId;
use crate::client::{Client, Content};
use crate::container_options::environment;
use crate::detach::{self, Keys};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::session::{End, Resized, Session, follow_size};
use crate::target::Target;
use crate::{quantity, terminal};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Execute a command in a running container
#[derive(clap::Args, Clone, Debug)]
#[command(override_usage = "ireko exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub struct Args {
    /// Detached mode: run the command in the background
    #[arg(short, long)]
    detach: bool,

    /// Override the key sequence for detaching from a terminal
    #[arg(long, value_name = "string", default_value = detach::DEFAULT, hide_default_value = true)]
    detach_keys: Keys,

    /// Set an environment variable: NAME=VALUE, or NAME for its value here
    #[arg(short, long, value_name = "list", value_parser = quantity::environment_entry)]
    env: Vec<String>,

    /// Read environment variables from a file
    #[arg(long, value_name = "list")]
    env_file: Vec<PathBuf>,

    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,

    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,

    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, value_name = "string")]
    user: Option<String>,

    /// Working directory inside the container
    #[arg(short, long, value_name = "string")]
    workdir: Option<String>,

    // One list, because clap stops looking for options at its first word, as docker does.
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "CONTAINER", hide = true)]
    container_and_command: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExecRequest<'a> {
    cmd: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<&'a str>,
    tty: bool,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    detach_keys: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StartRequest {
    detach: bool,
    tty: bool,
    /// Height and width.
    #[serde(skip_serializing_if = "Option::is_none")]
    console_size: Option<[u16; 2]>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exec {
    exit_code: Option<i64>,
}

/// Runs the command; the status is its own where it is not in the background.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let [container, command @ ..] = &args.container_and_command[..] else {
        return Err(Error::usage("a container and a command are needed"));
    };
    let attached = !args.detach;
    terminal::require(args.tty, args.interactive && attached)?;
    let request = Content::json(&ExecRequest {
        cmd: command,
        env: environment(&args.env_file, &args.env)?,
        user: args.user.as_deref(),
        working_dir: args.workdir.as_deref(),
        tty: args.tty,
        attach_stdin: args.interactive && attached,
        attach_stdout: attached,
        attach_stderr: attached,
        detach_keys: args.detach_keys.to_string(),
    })?;
    let start = Content::json(&StartRequest {
        detach: args.detach,
        tty: args.tty,
        console_size: terminal::size()
            .filter(|_| args.tty && attached)
            .map(|size| [size.rows, size.columns]),
    })?;
    let client = context.connect().await?;
    let target = Target::docker(["containers", container, "exec"]);
    let created = client.post(&target, request).await;
    let WithId { id } = created.map_err(|error| with_cure(error, container))?;
    let target = Target::docker(["exec", &id, "start"]);
    if args.detach {
        client.send(hyper::Method::POST, &target, start).await?;
        return Ok(Exit::SUCCESS);
    }
    let session = Session {
        link: client.hijack(&target, start).await?,
        tty: args.tty,
        stdin: args.interactive,
        keys: args.detach_keys.clone(),
        proxied: false,
        greeting: None,
    };
    if args.tty {
        tokio::spawn(follow_size(client.clone(), Resized::Exec(id.clone())));
    }
    match session.run().await? {
        End::Finished => exit_code(&client, &id).await,
        End::Detached => Ok(Exit::SUCCESS),
        End::Signal(signal) => Ok(Exit::of_signal(signal)),
    }
}

async fn exit_code(client: &Client, id: &str) -> Result<Exit> {
    let exec: Exec = client.get(&Target::docker(["exec", id, "json"])).await?;
    match exec.exit_code {
        Some(code) => Ok(Exit::of_process(code)),
        None => Err(Error::local("the stream ended before the command did")),
    }
}

fn with_cure(error: Error, container: &str) -> Error {
    match error.status() {
        Some(404) => error.hint("`ireko ps` lists the running containers"),
        Some(409) => error.hint(format!(
            "`ireko start {container}` starts a stopped container, `ireko unpause {container}` lets a \
             paused one go on"
        )),
        _ => error,
    }
}
