//! What a virtual machine needs, and the QEMU driver that provides it.
//!
//! ```text
//!   accel::verdict ──┐
//!   kernel::initrd ──┼─► VmSpec ─► VmDriver::launch ─► RunningVm ── wait ─► VmExit
//!   disks, ports  ───┘   (names nothing of QEMU)           └─ Control (clonable, deadlines)
//! ```
//!
//! Read in this order: [`spec`] (what is asked for), [`driver`] (what is given back), [`qemu`] (the
//! one driver there is), [`accel`] (may hardware virtualisation be used here), [`kernel`] (what a
//! utility VM boots), [`firmware`] (what a machine boots by), [`template`] (VMs that were saved to be
//! gone on from), [`suspended`] (one that was saved whole, to go on itself).
//!
//! What runs inside the guest, what its disks hold and who speaks on its ports is decided by the
//! caller; nothing here reads a disk or a guest's message.
//!
//! ```no_run
//! use ireko_vm::{Error, Qemu, RunningVm, VmDriver, VmSpec, accel};
//!
//! fn run(mut spec: VmSpec, cache: &std::path::Path) -> Result<(), Error> {
//!     spec.accel = accel::verdict(cache, accel::Choice::Auto)?.accel;
//!     let mut vm = Qemu::find()?.launch(&spec)?;
//!     println!("{}", vm.wait()?);
//!     Ok(())
//! }
//! ```
#![deny(unsafe_code)]

#[cfg(not(target_arch = "x86_64"))]
compile_error!("Ireko's virtual machines are x86-64 and so are the hosts it is built for");

pub mod accel;
pub mod driver;
mod error;
pub mod firmware;
pub mod kernel;
pub mod keys;
pub mod qemu;
mod replace_file;
pub mod spec;
pub mod suspended;
pub mod template;

pub use accel::Accel;
pub use driver::{RunningVm, VmDriver, VmExit};
pub use error::{Error, ErrorKind, Result};
pub use qemu::{Control, NicKind, Qemu};
pub use spec::{
    Boot, Cable, Console, DiskAttachment, DiskSource, Firmware, GuestPort, Hardware, KernelBoot,
    MachineBoot, Nic, SavedVm, Uefi, VmSpec,
};
