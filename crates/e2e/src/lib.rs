//! Tests that boot VMs and drive outside clients, and what they share.
//!
//! A [`World`] is a root of its own with a daemon of its own, seen through the built `ireko` and
//! the real `docker`. However many test processes run, at most two VMs do (or three small ones of one test): see [`slots`].
//! The tests are in `tests/`, one file a subject.
#![forbid(unsafe_code)]

pub mod agent_line;
pub mod docker;
pub mod guest_program;
pub mod http;
pub mod machine;
pub mod outside;
pub mod programs;
pub mod talk;
pub mod terminal;
pub mod victim;
pub mod witness;
pub mod world;

#[path = "../guest/talker.rs"]
pub mod talker;

pub use ireko_testkit::slots;
pub use programs::{Ran, run};
pub use world::World;
