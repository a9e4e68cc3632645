//! The daemon's own log, `<root>/log/daemon.log`.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// The variable that says what is logged, as `tracing_subscriber::EnvFilter` reads it.
const FILTER: &str = "IREKO_LOG";

/// Appends what is traced from here on to the log.
pub(crate) fn start(root: &Path) -> io::Result<()> {
    let folder = root.join("log");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let file = File::options().create(true).append(true).open(folder.join("daemon.log"))?;
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Mutex::new(file))
        .try_init()
        .map_err(io::Error::other)
}
