//! The shape of files: fixed disks.
//!
//! What the disk reads must not depend on it; `qemu-img` and `7zz` say whether others agree. Where they are not there,
//! that is said.

mod fixed;
mod support;
