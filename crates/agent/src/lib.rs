//! The guest agent: PID 1 of the utility VM, and a service of operating systems that were prepared.
//!
//! It brings the kernel's file systems up, loads the modules it was packed with, meets the shim on
//! a virtio-serial port and does what [`ireko_protocol::agent`] says: mounts the container's disk,
//! runs processes on it, carries their streams, unpacks archives, powers the machine off.
//!
//! One thread, [`serve`], owns the port and every process; what may block (the disk, a spawn, an
//! archive) runs on a thread of its own and reports back.
//!
//! ```text
//!   port ──frames──► serve ──requests──► spawn, apply_tar, freeze, processes   (own threads)
//!    ▲                 │ ▲                          │
//!    └──frames─────────┘ └────────outcomes──────────┘
//!                      │
//!                      └─ process: pipes and terminals of what runs, with flow control (streams)
//! ```
//!
//! Nothing here may end PID 1: every failure becomes a `Failed` reply or a line in the kernel log.
//!
//! [`init`] and [`service`] are the two ways in; which of both it is decides what it is asked for
//! ([`serve::Role`]) and where its programs run ([`spawn::Target`]).

pub mod failure;
pub mod kmsg;

// Coming up and going down.
pub mod init;
pub mod power_off;
pub mod service;
pub mod uevent;

// The channel to the host.
pub mod port;
pub mod serve;
pub mod streams;

// The machine and the container in it, or the system.
mod addresses;
pub mod cgroup;
pub mod clock;
pub mod configure;
pub mod disks;
pub mod freeze;
mod generalize;
mod install;
pub mod network;
pub mod rooted;
mod system_disk;
mod thaw_guard;
mod units;
pub mod view;

// Processes.
pub mod child;
pub mod process;
pub mod processes;
pub mod program;
pub mod reaper;
pub mod rehearse;
pub mod spawn;
pub mod tty;
pub mod usage;
pub mod users;

// The container's files, and archives of them; `ireko-tar` reads these.
pub mod apply_tar;
pub mod files;
mod list;
pub mod look;
pub mod pack;
pub mod removal;
pub mod walk;
pub mod whiteout;
