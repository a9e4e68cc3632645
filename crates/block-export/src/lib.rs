//! Serves one disk on a unix socket by the NBD protocol.
//!
//! ```text
//!   client ─ socket ─► accept ─► connection: negotiate, then
//!                                  intake ─► one of the workers ─► Disk
//!                                  client ◄────────── replies ◄──────┘   in the order they are done
//! ```
//!
//! Read in this order: [`server`] (accepting, shutting down), `negotiation` (what both sides agree
//! on), `connection` (one client from first to last), `intake` (who reads the next request),
//! `execution` (a request on the disk), `replies` (what goes back), `wire` (numbers and layouts).
//!
//! Clients are hostile until proved otherwise: lengths are bounded before anything is allocated,
//! what one connection may hold in memory is bounded, and a client that breaks the protocol loses
//! its connection and nobody else's. Which disk is served, and swapping it under a running guest,
//! is the caller's business, behind [`ireko_disk::Disk`].
//!
//! Source of all section numbers and names: the NBD project's `doc/proto.md`.
#![forbid(unsafe_code)]

mod budget;
mod connection;
mod execution;
mod intake;
mod negotiation;
mod replies;
pub mod server;
mod wire;

pub use server::{Export, Server, serve};
