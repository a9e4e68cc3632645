//! Where, how much and how often is measured.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;
use tempfile::TempDir;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const TIB: u64 = 1 << 40;

/// One section's folder and numbers; the folder goes with it.
pub struct Setting {
    folder: TempDir,
    mib: Option<u64>,
    pub rounds: usize,
    pause: Duration,
}

impl Setting {
    pub fn for_section(name: &str) -> Self {
        let place =
            std::env::var_os("IREKO_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = tempfile::Builder::new().prefix(&format!("ireko-{name}-")).tempdir_in(place);
        Self {
            folder: folder.expect("a folder"),
            mib: number("IREKO_BENCH_MIB"),
            rounds: number("IREKO_BENCH_ROUNDS").unwrap_or(5),
            pause: Duration::from_secs(number("IREKO_BENCH_PAUSE").unwrap_or(0)),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// MiB of data, `usual` unless somebody wants another amount.
    pub fn mib_or(&self, usual: u64) -> u64 {
        self.mib.unwrap_or(usual)
    }

    /// Gives the disk time to recover.
    pub fn pause(&self) {
        std::thread::sleep(self.pause);
    }

    /// Makes the next run read from the disk: all but the programs that are going to run.
    pub fn cool(&self) {
        self.pause();
        rustix::fs::sync();
        let dropped = File::options()
            .write(true)
            .open("/proc/sys/vm/drop_caches")
            .and_then(|mut file| file.write_all(b"3"));
        if let Err(error) = dropped {
            println!("   the cache is warm: {error}");
        }
        let ours = ireko_e2e::programs::ireko().as_os_str();
        for program in [ours, "cp".as_ref(), "qemu-img".as_ref()] {
            let said = Command::new(program).arg("--version").stdout(Stdio::null()).status();
            said.expect("run a program");
        }
    }
}

/// Removes files that may be there.
pub fn remove(paths: &[&Path]) {
    for path in paths {
        match fs::remove_file(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            outcome => outcome.expect("remove a file"),
        }
    }
}

fn number<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}
