//! The shape of files: fixed disks, compacting, resizing.
//!
//! What the disk reads must not depend on it; `qemu-img` and `7zz` say whether others agree. Where they are not there,
//! that is said. `IREKO_SOAK=n` cuts the power under n times as many disks.

mod anatomy;
mod compact;
mod disks;
mod faults;
mod fixed;
mod hostile;
mod resize;
mod resize_power;
mod support;
