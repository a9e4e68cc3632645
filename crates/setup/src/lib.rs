//! Fills the machine-wide cache: the guest kernel and the parts of the base image.
//!
//! ```text
//!   Debian's packages ──► apt-get download, dpkg-deb -x      nothing is installed, no root needed
//!        │
//!        ├─ linux-image ─► <cache>/kernel/<version>/{vmlinux, modules.cpio, manifest.json}
//!        │                 <cache>/kernel/current            names the version in use
//!        └─ busybox, libc ─► <cache>/base/{rootfs.tar, root.vhdx, manifest.json}
//! ```
//!
//! Each part appears whole or not at all: it is made in a folder beside, synced and renamed. Two
//! set-ups at once take turns; an interrupted one leaves only a folder the next one removes.
//!
//! ```no_run
//! use ireko_setup::{Options, setup};
//!
//! let cache = std::path::Path::new("/var/cache/ireko");
//! let report = setup(cache, &Options::default(), &mut |step| eprintln!("{step}"))?;
//! println!("kernel {}", report.kernel);
//! # Ok::<(), ireko_setup::Error>(())
//! ```
#![forbid(unsafe_code)]

mod fill;
mod status;

mod bzimage;
mod compression;
mod cpio;
mod elf;
mod kernel;
mod modules;

mod base;
mod base_files;
mod root_disk;
mod tree;

mod apt;
mod cache;
mod durable;
mod error;
mod manifest;
mod progress;
mod tool;

pub use error::{Error, ErrorKind, Result};
pub use fill::{Options, Report, setup};
pub use progress::{Part, Step};
pub use status::{PartStatus, Status, status};
