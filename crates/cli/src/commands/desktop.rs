//! `ireko desktop`.

use super::{Context, connect};
use crate::client::Client;
use crate::client::Content;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output::{self, note};
use crate::signals;
use crate::target::Target;
use crate::tunnel::Tunnel;
use serde::Deserialize;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Where Windows takes remote desktops, and xrdp.
const RDP_PORT: u16 = 3389;

/// See a running machine's screen and use its keyboard and mouse
///
/// Prints the address of a port of 127.0.0.1 at which VNC viewers find the screen, and a password that is
/// made for this once; starts a viewer where one is installed. The port is there until the viewer, or
/// this command, ends. With --rdp the way is to the machine's own remote desktop (port 3389), and the
/// file that leads there is written for mstsc and its like.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Start no viewer
    #[arg(long)]
    no_viewer: bool,

    /// The port to listen on; any that is free, where it is not given
    #[arg(long, value_name = "port", default_value_t = 0, hide_default_value = true)]
    port: u16,

    /// Lead to the machine's own remote desktop, and write this file (NAME.rdp)
    #[arg(long, value_name = "file", num_args = 0..=1, require_equals = true)]
    rdp: Option<Option<PathBuf>>,

    #[arg(value_name = "CONTAINER")]
    container: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Way {
    password: String,
}

/// Leads the way until the viewer or the user ends it.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    match &args.rdp {
        None => vnc(&client, args).await,
        Some(file) => rdp(&client, args, file.clone()).await,
    }
}

async fn vnc(client: &Client, args: &Args) -> Result<Exit> {
    let target = Target::ireko(["containers", &args.container, "screen"]);
    let Way { password } = client.post(&target, Content::none()).await?;
    let tunnel = Tunnel::open(args.port).await?;
    let (port, address) = (tunnel.address.port(), tunnel.address);
    output::line(format_args!("vnc://{address}"))?;
    output::line(format_args!("password {password}"))?;
    let viewers: [(&str, Vec<OsString>); 3] = [
        ("vncviewer", vec![format!("127.0.0.1::{port}").into()]),
        ("remote-viewer", vec![format!("vnc://{address}").into()]),
        ("gvncviewer", vec![format!("127.0.0.1:{}", i32::from(port) - 5900).into()]),
    ];
    // TigerVNC takes it from there; others ask.
    let variable = ("VNC_PASSWORD", password.as_str());
    let target = Target::ireko(["containers", &args.container, "screen", "stream"]);
    stay(client, tunnel, &target, viewer(args, &viewers, Some(variable)), args).await
}

async fn rdp(client: &Client, args: &Args, file: Option<PathBuf>) -> Result<Exit> {
    let tunnel = Tunnel::open(args.port).await?;
    let file = file.unwrap_or_else(|| format!("{}.rdp", args.container).into());
    write_new(&file, &rdp_file(tunnel.address))?;
    output::line(file.display())?;
    output::line(format_args!("rdp://{}", tunnel.address))?;
    let viewers =
        [("xfreerdp", vec![file.clone().into()]), ("remmina", vec!["-c".into(), file.into()])];
    let target = connect::target(&args.container, RDP_PORT);
    stay(client, tunnel, &target, viewer(args, &viewers, None), args).await
}

/// What mstsc opens.
fn rdp_file(address: std::net::SocketAddr) -> String {
    format!(
        "full address:s:{address}\r\nprompt for credentials:i:1\r\nredirectclipboard:i:1\r\n\
         audiomode:i:0\r\nscreen mode id:i:1\r\n"
    )
}

/// Writes a file of this kind; another one of the same name is left alone.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let failed = |error| Error::local(format!("cannot write {}", path.display())).because(error);
    let is_ours =
        || std::fs::read_to_string(path).is_ok_and(|old| old.starts_with("full address:"));
    match std::fs::File::create_new(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).map_err(failed),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && is_ours() => {
            std::fs::write(path, text).map_err(failed)
        }
        Err(error) => Err(failed(error).hint("--rdp=FILE names another one")),
    }
}

/// Serves until the viewer ends or the user ends this.
async fn stay(
    client: &Client,
    tunnel: Tunnel,
    target: &Target,
    viewer: Option<tokio::process::Child>,
    args: &Args,
) -> Result<Exit> {
    if viewer.is_none() {
        let why = if args.no_viewer { "" } else { "no viewer was found; " };
        note(format_args!("{why}ctrl-c ends it"));
    }
    let seen = async {
        match viewer {
            Some(mut viewer) => drop(viewer.wait().await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        failed = tunnel.serve(client, target) => failed.map(|()| Exit::SUCCESS),
        () = seen => Ok(Exit::SUCCESS),
        signal = signals::fatal() => Ok(Exit::of_signal(signal)),
    }
}

/// The first viewer that is installed, where there is a desktop here for it.
fn viewer(
    args: &Args,
    viewers: &[(&str, Vec<OsString>)],
    variable: Option<(&str, &str)>,
) -> Option<tokio::process::Child> {
    let has_desktop =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    if args.no_viewer || !has_desktop {
        return None;
    }
    viewers.iter().find_map(|(program, arguments)| {
        let mut command = Command::new(program);
        command.args(arguments).envs(variable).stdin(Stdio::null()).stdout(Stdio::null());
        command.kill_on_drop(true).spawn().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rdp_file_replaces_an_older_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.rdp");
        let address = "127.0.0.1:4000".parse().unwrap();
        write_new(&file, &rdp_file(address)).unwrap();
        write_new(&file, &rdp_file(address)).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("full address:s:127.0.0.1:4000\r\nprompt for credentials:i:1\r\n")
        );
        std::fs::write(&file, "my notes").unwrap();
        assert!(write_new(&file, &rdp_file(address)).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "my notes");
    }
}
