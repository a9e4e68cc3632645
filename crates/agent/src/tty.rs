//! Terminals, from the devpts of the container, or of the system.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::failure::{During, Result};
use crate::users::Identity;

/// The group `tty` of most distributions, which devpts gives to its terminals.
const TTY_GROUP: u32 = 5;

/// A new terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The agent's end.
    pub master: OwnedFd,
    /// The process's end.
    pub slave: OwnedFd,
}

impl Terminal {
    /// Opens one of this size (rows, columns) in the system whose root this is as we see it, owned by the
    /// user who will run on it.
    pub fn open(root: &str, size: (u16, u16), owner: &Identity) -> Result<Self> {
        let master = rustix::fs::open(
            format!("{root}/dev/pts/ptmx"),
            OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .during(|| "open a terminal")?;
        rustix::pty::unlockpt(&master).during(|| "unlock the terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).during(|| "open the terminal's other end")?;
        resize(&master, size)?;
        let (uid, gid) =
            (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(TTY_GROUP));
        rustix::fs::fchown(&slave, Some(uid), Some(gid)).during(|| "give the terminal away")?;
        Ok(Self { master, slave })
    }

    /// The number of the terminal in the container's /dev/pts.
    pub fn number(&self) -> Result<u32> {
        let name = rustix::pty::ptsname(&self.master, Vec::new()).during(|| "name the terminal")?;
        let digits = name.to_string_lossy();
        let digits = digits.rsplit('/').next().unwrap_or_default();
        digits.parse().map_err(std::io::Error::other).during(|| "name the terminal")
    }
}

/// Sets the size of a terminal (rows, columns); its foreground processes get SIGWINCH.
pub fn resize(master: &OwnedFd, (rows, columns): (u16, u16)) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).during(|| "resize the terminal")
}
