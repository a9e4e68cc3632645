//! One virtual network: a switch for VMs and the gateway in it, as one process without privilege.
//!
//! ```text
//!   QEMU ═unix socket═ port ─┐                        ┌─ uplink::tcp, udp, ping ─► host's sockets
//!   QEMU ═unix socket═ port ─┼─ switch ── gateway ────┤
//!   QEMU ═unix socket═ port ─┘    (ARP, DHCP, names)  ├─ uplink::resolver ─► host's name servers
//!   engine ═unix socket═ control                      └─ uplink::publish ◄── host's ports
//! ```
//!
//! What guests send is hostile: each frame is looked at by `admission` before anything else sees it,
//! tables are bounded for each guest and in all, and what a VM does not read is dropped.
//!
//! Read in this order: [`admission`] (what a guest may send), [`switch`] (who gets it), [`gateway`]
//! with [`dhcp`] and [`names`] (what is answered here), [`endpoint`] (one TCP connection), all of
//! which take bytes and give bytes; then `uplink` (what is done with the host's sockets),
//! `switchboard` (who owns all of it) and `run` (the process).
#![forbid(unsafe_code)]

pub mod admission;
pub mod dhcp;
pub mod endpoint;
mod error;
mod frame;
pub mod gateway;
pub mod names;
pub mod queue;
pub mod switch;

mod control;
mod port;
mod run;
mod sources;
mod switchboard;
mod uplink;

pub use error::{Error, Result};
pub use run::{main, run};
