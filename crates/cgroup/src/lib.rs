//! What a VM may take of the host: a control group (version 2) for each.
//!
//! ```text
//!   home            `ireko.slice`, or what the daemon was told: no process is in it itself
//!   ├── ireko.service              the daemon and its shims; nobody here touches it
//!   └── ireko-vm-0123456789ab      one VM's QEMU, with its limits
//! ```
//!
//! [`Home`] finds the place and proves that groups can be made and entered there; [`Group`] is one VM's,
//! which QEMU enters before it is QEMU. It outlives whoever made it: the next one who looks after the VM
//! removes it, by its name. The hierarchies of version 1 are left alone.
//!
//! Nothing but the standard library is used: a test runs these files as they are as a program in a guest,
//! whose kernel grants what the host of the tests may not.
#![forbid(unsafe_code)]

mod error;
mod group;
mod home;

pub use error::{Error, Result};
pub use group::{Group, InForce, Limits};
pub use home::{CONTROLLERS, Home, SLICE};
