//! `ireko vhd serve`.

use super::source::{Source, failed};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::{output, signals};
use ireko_block_export::{Export, serve};
use ireko_disk::{Access, Chain, Disk};
use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

/// Serve a disk by NBD on a unix socket
///
/// Prints the NBD URI and serves until interrupted; with a COMMAND, until that has ended. The command
/// finds the URI in its environment as IREKO_NBD_URI, and its exit status becomes this one's:
///
///   ireko vhd serve disk.vhdx -- sh -c 'nbdcopy "$IREKO_NBD_URI" disk.raw'
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// Where to listen; made and removed (default: a new socket in a private temporary folder)
    #[arg(short, long, value_name = "path")]
    socket: Option<PathBuf>,

    /// Let clients write; a parent that is written to is no longer the parent of its children
    #[arg(short, long)]
    writable: bool,

    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<OsString>,
}

/// Serves until told to stop, then closes the disk.
pub async fn execute(args: Args) -> Result<Exit> {
    let access = if args.writable { Access::ReadWrite } else { Access::ReadOnly };
    let disk = Arc::new(args.source.open(&args.file, access)?);
    let (socket, listener) = Socket::listen(args.socket.as_deref())?;
    let export = Export {
        name: String::new(),
        disk: disk.clone(),
        read_only: !args.writable,
        description: String::new(),
    };
    let server =
        serve(listener, export).map_err(|error| Error::local("cannot serve").because(error))?;
    let outcome = match args.command.split_first() {
        None => {
            output::line(socket.uri())?;
            Ok(Exit::of_signal(signals::fatal().await))
        }
        Some((program, words)) => run(program, words, &socket.uri()).await,
    };
    server.shut_down();
    close(disk, &args.file)?;
    match outcome? {
        // To be interrupted is how serving ends.
        Exit(130 | 143) if args.command.is_empty() => Ok(Exit::SUCCESS),
        exit => Ok(exit),
    }
}

/// Makes everything durable; the server has let go of the disk.
fn close(disk: Arc<Chain>, file: &Path) -> Result<()> {
    match Arc::try_unwrap(disk) {
        Ok(disk) => disk.close(),
        Err(disk) => disk.flush(),
    }
    .map_err(failed("cannot close", file))
}

async fn run(program: &OsString, words: &[OsString], uri: &str) -> Result<Exit> {
    let shown = || program.to_string_lossy().into_owned();
    let mut child = tokio::process::Command::new(program)
        .args(words)
        .env("IREKO_NBD_URI", uri)
        .spawn()
        .map_err(|error| Error::local(format!("cannot run {}", shown())).because(error))?;
    // The terminal's interrupt reaches the command too; its end is waited for either way.
    let interrupted = async {
        loop {
            signals::fatal().await;
        }
    };
    let status = tokio::select! {
        status = child.wait() => status,
        () = interrupted => unreachable!("signals are waited for without end"),
    };
    let status =
        status.map_err(|error| Error::local(format!("wait for {}", shown())).because(error))?;
    Ok(exit_of(status))
}

fn exit_of(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::of_process(code.into()),
        (None, signal) => Exit::of_signal(signal.unwrap_or(0)),
    }
}

/// A socket that is listened at; removed when dropped.
struct Socket {
    path: PathBuf,
    /// Made for it alone.
    folder: Option<PathBuf>,
}

impl Socket {
    /// Listens at `path`, else in a new private folder.
    fn listen(path: Option<&Path>) -> Result<(Self, UnixListener)> {
        let Some(path) = path else { return Self::listen_in_private() };
        let path = std::path::absolute(path)
            .map_err(|error| Error::usage("--socket is not a path").because(error))?;
        let is_socket =
            std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if is_socket && UnixStream::connect(&path).is_err() {
            // Nobody listens there any more. A failure shows in what follows.
            let _ = std::fs::remove_file(&path);
        }
        let listener = bind(&path)?;
        Ok((Self { path, folder: None }, listener))
    }

    fn listen_in_private() -> Result<(Self, UnixListener)> {
        let folder = std::env::temp_dir().join(format!("ireko-vhd-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| {
            Error::local(format!("cannot make {}", folder.display()))
                .because(error)
                .hint("--socket PATH puts the socket elsewhere")
        })?;
        let socket = Self { path: folder.join("nbd.sock"), folder: Some(folder) };
        let listener = bind(&socket.path)?;
        Ok((socket, listener))
    }

    fn uri(&self) -> String {
        let path = self.path.to_string_lossy();
        let mut uri = String::from("nbd+unix:///?socket=");
        for byte in path.bytes() {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'~' => uri.push(byte.into()),
                byte if byte.is_ascii_alphanumeric() => uri.push(byte.into()),
                byte => uri.push_str(&format!("%{byte:02X}")),
            }
        }
        uri
    }
}

fn bind(path: &Path) -> Result<UnixListener> {
    UnixListener::bind(path).map_err(|error| {
        Error::local(format!("cannot listen at {}", path.display())).because(error)
    })
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_escapes_what_a_path_may_hold() {
        let socket = Socket { path: "/tmp/a b&c?.sock".into(), folder: None };
        assert_eq!(socket.uri(), "nbd+unix:///?socket=/tmp/a%20b%26c%3F.sock");
    }
}
