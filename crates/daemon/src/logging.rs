//! The daemon's own log, `<root>/log/daemon.log`, and the one before it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// The variable that says what is logged, as `tracing_subscriber::EnvFilter` reads it.
const FILTER: &str = "IREKO_LOG";
/// A log of so many bytes becomes `daemon.log.1`, in the place of the one that was it.
const FULL: u64 = 10 << 20;

/// Appends what is traced from here on to the log.
pub(crate) fn start(root: &Path) -> io::Result<()> {
    let folder = root.join("log");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let log = Log::open(folder.join("daemon.log"), FULL)?;
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Mutex::new(log))
        .try_init()
        .map_err(io::Error::other)
}

/// A log that is kept up to twice its size.
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    full: u64,
}

impl Log {
    fn open(path: PathBuf, full: u64) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, full })
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        fs::rename(&self.path, self.path.with_added_extension("1"))?;
        *self = Self::open(self.path.clone(), self.full)?;
        Ok(())
    }
}

impl Write for Log {
    /// Writes one event, which is one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if self.bytes >= self.full {
            // Better a long log than none.
            let _ = self.begin_anew();
        }
        let written = self.file.write(event)?;
        self.bytes = self.bytes.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_becomes_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.log");
        for event in ["one\n", "two\n", "three\n", "four\n"] {
            let mut log = Log::open(path.clone(), 6).unwrap();
            log.write_all(event.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
        assert_eq!(fs::read_to_string(path.with_added_extension("1")).unwrap(), "three\n");
    }
}
