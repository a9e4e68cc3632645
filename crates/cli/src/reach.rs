//! Finding the daemon, and starting it where none runs.
//!
//! ```text
//!   connect ──answers──► use it
//!      │ no socket, or nobody behind it
//!      ▼
//!   spawn `ireko daemon --background`, its errors into <root>/log/daemon-start.log
//!      │
//!      ├─ /_ping answers (its own or that of whoever won the race) ──► use it
//!      ├─ the child ended and nobody answers ──► its reason
//!      └─ the deadline passed ──► where to look
//! ```

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::target::Target;
use ireko_protocol::host::HostInfo;
use ireko_protocol::places::{MAX_SOCKET_PATH, Places};
use ireko_protocol::plan::AccelChoice;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// A daemon makes up for what it missed before it listens.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A start that lost the race ends at once; the winner needs so long at most to listen.
const RACE_PATIENCE: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(10);

/// The most of a failed daemon's last words that is shown.
const MAX_REASON: u64 = 16 << 10;

/// Which daemon is meant, and how it is started.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Root, cache and sockets.
    pub places: Places,
    /// `--host`: this socket and no other; nothing is started.
    pub host: Option<PathBuf>,
    /// `--cache`, where it was given: a running daemon must agree.
    pub cache: Option<PathBuf>,
    /// `--accel`, likewise.
    pub accel: Option<AccelChoice>,
}

impl Reach {
    /// A daemon that answers; one is started if need be.
    pub async fn connect(&self) -> Result<Client> {
        match self.running().await? {
            Some(client) => {
                self.agrees(&client).await?;
                Ok(client)
            }
            None => match &self.host {
                Some(socket) => Err(nobody(socket)),
                None => self.start().await,
            },
        }
    }

    /// The daemon, if one runs.
    pub async fn running(&self) -> Result<Option<Client>> {
        let socket = self.socket()?;
        let client = Client::new(&socket);
        match tokio::net::UnixStream::connect(&socket).await {
            Ok(_) => Ok(Some(client)),
            Err(error) => match error.kind() {
                // The last: one that ended with this connection in its queue.
                std::io::ErrorKind::NotFound
                | std::io::ErrorKind::ConnectionRefused
                | std::io::ErrorKind::ConnectionReset => Ok(None),
                std::io::ErrorKind::PermissionDenied => Err(cannot_connect(&socket)
                    .because(error)
                    .hint("only the user who started a daemon may use it; --root chooses another")),
                _ => Err(cannot_connect(&socket).because(error)),
            },
        }
    }

    /// Where the daemon listens.
    ///
    /// Errors: a path that no unix socket can have.
    pub fn socket(&self) -> Result<PathBuf> {
        let socket = self.host.clone().unwrap_or_else(|| self.places.socket_link());
        let length = socket.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let message = format!(
                "the socket's path {} has {length} bytes; unix sockets end at {MAX_SOCKET_PATH}",
                socket.display()
            );
            return Err(Error::usage(message).hint("choose a shorter folder with --root DIR"));
        }
        Ok(socket)
    }

    /// Refuses a running daemon that was started otherwise than this command line says.
    async fn agrees(&self, client: &Client) -> Result<()> {
        if self.cache.is_none() && self.accel.is_none() {
            return Ok(());
        }
        let info: HostInfo = client.get(&Target::ireko(["info"])).await?;
        let cure =
            "`ireko daemon stop` ends it (containers go on); the next command starts it anew";
        if let Some(cache) = self.cache.as_ref().filter(|cache| **cache != info.cache) {
            let message = format!(
                "the running daemon uses the cache {}, not {}",
                info.cache.display(),
                cache.display()
            );
            return Err(Error::usage(message).hint(cure));
        }
        if let Some(accel) = self.accel.filter(|accel| *accel != info.host.accel.choice) {
            let message = format!(
                "the running daemon was started with --accel {}, not {}",
                word(info.host.accel.choice),
                word(accel)
            );
            return Err(Error::usage(message).hint(cure));
        }
        Ok(())
    }

    async fn start(&self) -> Result<Client> {
        let client = Client::new(self.socket()?);
        let mut log = StartLog::open(&self.places.root)?;
        let mut child = self.spawn(&log)?;
        let mut deadline = Instant::now() + START_PATIENCE;
        let mut ended: Option<ExitStatus> = None;
        loop {
            if client.ping().await.is_ok() {
                return Ok(client);
            }
            if ended.is_none() {
                ended = child.try_wait().map_err(|error| not_started().because(error))?;
                match ended {
                    // Somebody else holds the root and is about to listen.
                    Some(status) if status.success() => {
                        deadline = deadline.min(Instant::now() + RACE_PATIENCE);
                    }
                    Some(status) => return Err(log.reason(status)),
                    None => {}
                }
            }
            if Instant::now() >= deadline {
                let waited = format!("no answer at {}", client.socket().display());
                let hint = format!("see {}", self.places.root.join("log").display());
                return Err(not_started().because(waited).hint(hint));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn spawn(&self, log: &StartLog) -> Result<Child> {
        let failed = |error| not_started().because(error);
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("daemon").arg("--background");
        command.arg("--root").arg(&self.places.root).arg("--cache").arg(&self.places.cache);
        if let Some(accel) = self.accel {
            command.arg("--accel").arg(word(accel));
        }
        // It outlives this command, so it must not hold on to the folder we stand in.
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log.file.try_clone().map_err(failed)?);
        command.spawn().map_err(failed)
    }
}

/// The option's value for a choice.
pub fn word(choice: AccelChoice) -> &'static str {
    match choice {
        AccelChoice::Auto => "auto",
        AccelChoice::Kvm => "kvm",
        AccelChoice::Tcg => "tcg",
    }
}

/// Where a starting daemon's standard error goes; starts of others may write there too.
struct StartLog {
    file: File,
    begin: u64,
}

impl StartLog {
    fn open(root: &Path) -> Result<Self> {
        let folder = root.join("log");
        let path = folder.join("daemon-start.log");
        let failed = |error| {
            Error::local(format!("cannot write {}", path.display()))
                .because(error)
                .hint("choose a folder of your own with --root DIR")
        };
        let mut folders = DirBuilder::new();
        folders.recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(&path).map_err(failed)?;
        let begin = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { file, begin })
    }

    /// What the daemon said before it ended.
    fn reason(&mut self, status: ExitStatus) -> Error {
        let mut words = Vec::new();
        let read = self
            .file
            .seek(SeekFrom::Start(self.begin))
            .and_then(|_| (&mut self.file).take(MAX_REASON).read_to_end(&mut words));
        let words = String::from_utf8_lossy(&words);
        let words = words.trim_end().trim_start_matches("ireko daemon: ");
        match read {
            Ok(_) if !words.is_empty() => not_started().because(words.to_owned()),
            _ => not_started().because(status.to_string()),
        }
    }
}

fn not_started() -> Error {
    Error::new(ErrorKind::Unreachable, "the daemon could not be started")
}

fn nobody(socket: &Path) -> Error {
    Error::new(ErrorKind::Unreachable, format!("no daemon listens at {}", socket.display()))
        .hint("leave out --host and one is started for the root")
}

fn cannot_connect(socket: &Path) -> Error {
    Error::new(ErrorKind::Unreachable, format!("cannot connect to {}", socket.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Fake;

    fn reach(host: Option<PathBuf>, root: &Path) -> Reach {
        let places =
            Places { root: root.to_owned(), cache: root.join("cache"), runtime: root.join("run") };
        Reach { places, host, cache: None, accel: None }
    }

    #[test]
    fn a_root_too_deep_for_a_socket_is_refused_with_the_cure() {
        let deep = PathBuf::from(format!("/{}", "d".repeat(100)));
        let error = reach(None, &deep).socket().unwrap_err();
        assert!(error.report().to_string().ends_with("choose a shorter folder with --root DIR"));
    }

    #[tokio::test]
    async fn a_given_host_is_never_started() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("none.sock");
        let error = reach(Some(host), folder.path()).connect().await.unwrap_err();
        assert!(error.to_string().starts_with("no daemon listens at"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_running_daemon_with_other_options_is_not_used_silently() {
        let fake = Fake::start(|_| {
            let info = r#"{"version":"0.1.0","root":"/r","cache":"/c","runtime":"/run/r",
                "qemu":{"found":false,"version":null,"path":null,"error":"none"},
                "accel":{"choice":"auto","verdict":"tcg","reason":"no /dev/kvm"},
                "kernel":{"version":null,"error":"none"},"base":{"present":false,"error":null}}"#;
            Fake::json(200, info)
        });
        let socket = fake.client().socket().to_owned();
        let mut reach = reach(Some(socket), Path::new("/r"));
        reach.cache = Some("/c".into());
        reach.accel = Some(AccelChoice::Auto);
        reach.connect().await.unwrap();
        reach.accel = Some(AccelChoice::Kvm);
        let error = reach.connect().await.unwrap_err();
        assert_eq!(error.to_string(), "the running daemon was started with --accel auto, not kvm");
    }

    #[test]
    fn a_failed_start_is_explained_by_its_own_words_only() {
        use std::io::Write;
        use std::os::unix::process::ExitStatusExt;
        let root = tempfile::tempdir().unwrap();
        StartLog::open(root.path()).unwrap().file.write_all(b"older\n").unwrap();
        let mut log = StartLog::open(root.path()).unwrap();
        log.file.write_all(b"ireko daemon: no QEMU\n").unwrap();
        let report = log.reason(ExitStatus::from_raw(256)).report().to_string();
        assert_eq!(report, "ireko: the daemon could not be started\n  caused by: no QEMU");
    }
}
