//! For tests only: storage that loses power, what every disk must do, and turns at running VMs.
//!
//! ```text
//!   disk under test ──► CrashStorage ──► Trace: write, write, sync, write, …
//!                                          └── cut anywhere, lose, tear, reorder ──► CrashStorage again
//! ```
//! [`crash`] simulates power cuts under a disk, [`conformance`] is a suite that any
//! [`Disk`](ireko_disk::Disk) can run, [`random`] makes runs repeatable, and [`slots`] keeps it to two VMs at a time.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod crash;
mod image;
pub mod random;
pub mod slots;

pub use crash::{CrashStorage, Damage, GroupTrace, Trace};
pub use image::Image;
