//! The ireko commands: a client of the daemon.
//!
//! ```text
//!   argv ─► grammar ─► Personality ─┬─► Client ─┬─► commands/<verb> ─► reach ─► client ═HTTP═► daemon
//!                                   │           └─► vhd/<verb> ─► disk files, no daemon
//!                                   └─► daemon, setup, shim, probe: the host binary's business
//! ```
//!
//! Everything a command does goes through the socket, as it would for any other client; only
//! finding and starting the daemon (`reach`) happens here. The one exception is `vhd`, which works on
//! plain disk files; `template` is done by the host binary. Read in this order: `grammar`, `commands`, `container_options`, `session`, `vhd`.
//!
//! ```no_run
//! match ireko_cli::parse(std::env::args_os()) {
//!     Ok(ireko_cli::Personality::Client(invocation)) => invocation.run(),
//!     Ok(_) => std::process::ExitCode::FAILURE,
//!     Err(status) => status,
//! };
//! ```
#![forbid(unsafe_code)]

mod commands;
mod grammar;
mod personality;
mod vhd;

mod addressing;
mod container_options;
mod publish;
mod quantity;
mod reference;

mod client;
mod health_options;
mod hijack;
mod reach;
mod target;
mod tunnel;
mod waiting;

mod detach;
mod frames;
mod session;
mod signals;
mod terminal;

mod api;
mod archive_to;
mod lines;
mod output;
mod progress;
mod table;
mod words;

mod error;
mod exit;

#[cfg(test)]
mod testkit;

pub use commands::template;
pub use personality::{DaemonOptions, Invocation, Personality, parse};
