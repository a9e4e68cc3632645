//! Units that are left for a system's systemd.

use std::fs::File;
use std::io::Write;

use rustix::fs::{Mode, OFlags, openat, symlinkat};
use rustix::io::{Errno, Result};

use crate::rooted::Root;

/// Whether this system has systemd.
pub fn are_kept(root: &Root) -> bool {
    root.open_at(b"etc/systemd/system", OFlags::PATH | OFlags::DIRECTORY).is_ok()
}

/// Writes a unit, and has it started with the system.
pub fn leave(root: &Root, name: &str, text: &str) -> Result<()> {
    let units = root.ensure_folder(b"etc/systemd/system")?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    let unit = openat(&units, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?;
    File::from(unit)
        .write_all(text.as_bytes())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let wanted = root.ensure_folder(b"etc/systemd/system/multi-user.target.wants")?;
    match symlinkat(format!("../{name}"), &wanted, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}
