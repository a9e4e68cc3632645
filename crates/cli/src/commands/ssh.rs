//! `ireko ssh`.

use super::Context;
use crate::api::Container;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::target::Target;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Log in to a running container by ssh, or run a command in it
///
/// Runs this machine's ssh client. Its connection is led to the container's own port 22, which need not
/// be published; the container's host key is kept by its id. Keys that are let in are given at the
/// creation: `ireko run --ssh-key ~/.ssh/id_ed25519.pub`.
#[derive(clap::Args, Clone, Debug)]
#[command(override_usage = "ireko ssh [OPTIONS] [USER@]CONTAINER [COMMAND] [ARG...]")]
pub struct Args {
    /// File of the private key to log in with
    #[arg(short, long, value_name = "file")]
    identity: Vec<PathBuf>,

    /// User to log in as
    #[arg(short, long, value_name = "user")]
    login: Option<String>,

    /// An option of ssh's own: NAME=VALUE
    #[arg(short, long, value_name = "option")]
    option: Vec<String>,

    /// The container's port
    #[arg(short, long, value_name = "port", default_value = "22",
          value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// Have a terminal for the command
    #[arg(short, long)]
    tty: bool,

    // One list, because clap stops looking for options at its first word, as docker does.
    #[arg(required = true, trailing_var_arg = true, value_name = "CONTAINER", hide = true)]
    container_and_command: Vec<String>,
}

/// Becomes ssh.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let Some((place, command)) = args.container_and_command.split_first() else {
        return Err(Error::usage("no container was named"));
    };
    let (user, name) = match place.split_once('@') {
        Some((user, name)) => (Some(user), name),
        None => (args.login.as_deref(), place.as_str()),
    };
    let client = context.connect().await?;
    let container: Container = client.get(&Target::docker(["containers", name, "json"])).await?;
    if !container.state.running {
        return Err(Error::local(format!("container {name} does not run"))
            .hint(format!("start it first: `ireko start {name}`")));
    }
    let executable = std::env::current_exe()
        .map_err(|error| Error::local("find this program's own file").because(error))?;
    let alias = format!("ireko-{}", &container.id[..container.id.len().min(12)]);
    let mut ssh = Command::new("ssh");
    ssh.arg("-o").arg(format!(
        "ProxyCommand={}",
        proxy_command(&executable, client.socket(), &container.id, args.port)
    ));
    ssh.arg("-o").arg(format!("HostKeyAlias={alias}"));
    ssh.arg("-o").arg(format!(
        "UserKnownHostsFile={}",
        quoted(&context.reach.places.root.join("ssh_known_hosts"))
    ));
    // Nobody is between this machine and its own VM.
    ssh.args(["-o", "StrictHostKeyChecking=accept-new", "-o", "CheckHostIP=no"]);
    ssh.args(args.option.iter().flat_map(|option| ["-o", option]));
    for identity in &args.identity {
        ssh.arg("-i").arg(identity);
    }
    if let Some(user) = user {
        ssh.args(["-l", user]);
    }
    if args.tty {
        ssh.arg("-t");
    }
    ssh.arg("--").arg(alias).args(command);
    let failure = ssh.exec();
    Err(Error::local("cannot run ssh").because(failure).hint("it is in the package openssh-client"))
}

/// What ssh's own shell runs in the place of a connection.
fn proxy_command(executable: &Path, socket: &Path, container: &str, port: u16) -> String {
    let word = |path: &Path| shell_word(&path.to_string_lossy()).replace('%', "%%");
    let socket = PathBuf::from(format!("unix://{}", socket.display()));
    format!("{} -H {} connect {container} {port}", word(executable), word(&socket))
}

fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// As ssh's configuration has it: spaces separate files, percent signs are tokens.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_paths_reaches_the_proxy_command_as_it_is() {
        let command = proxy_command("/a b/i'reko".as_ref(), "/r/50%/s".as_ref(), "abc", 22);
        assert_eq!(command, r"'/a b/i'\''reko' -H 'unix:///r/50%%/s' connect abc 22");
    }
}
