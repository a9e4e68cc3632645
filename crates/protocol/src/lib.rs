//! Messages between Ireko's own processes and the guest agent.
//!
//! ```text
//!   cli ═HTTP═ daemon(engine) ═[shim]═ shim ═[agent over frame]═ guest agent
//! ```
//!
//! Pure values and sans-I/O codecs: nothing here opens a socket or a file. Read in this order:
//! [`frame`] (how bytes are cut on any of our channels), [`agent`] (what shim and guest say),
//! [`shim`] (what engine and shim say), [`plan`] (the file a shim is started with), [`network`] (what engine and switch say),
//! [`places`] (where root, cache and sockets are), [`host`] (what `ireko probe` found),
//! [`files`], [`listing`] (what is done with a container's files), [`confine`] (a program and the walls around it), [`images`], [`export`], [`usage`],
//! [`verified`] (what verbs on images ask and answer),
//! [`warm`] (what is made ready for containers to come),
//! [`tree`] (images and containers as `ireko tree` shows them).
#![forbid(unsafe_code)]

pub mod agent;
pub mod bounds;
pub mod confine;
pub mod disks;
pub mod export;
pub mod files;
pub mod frame;
pub mod host;
pub mod images;
pub mod listing;
pub mod network;
pub mod places;
pub mod plan;
pub mod shim;
pub mod tree;
pub mod usage;
pub mod verified;
pub mod warm;
