//! What provides a VM, and the VM it provides.

use crate::error::Result;
use crate::qemu::Control;
use crate::spec::VmSpec;
use std::fmt;

/// Something that can run a VM.
pub trait VmDriver {
    /// Starts a VM and returns when its devices and sockets are there; the guest may still be at
    /// its first instruction.
    ///
    /// The VM dies with the *thread* that calls this, so a process that owns a VM calls it on its
    /// main thread.
    ///
    /// # Errors
    /// `InvalidSpec`, `Start` with what the VM's process had to say, `Timeout`, `Io`. No process is
    /// left.
    fn launch(&self, spec: &VmSpec) -> Result<Box<dyn RunningVm>>;
}

/// A VM that was launched. Dropping it kills the VM where it still runs.
pub trait RunningVm: Send {
    /// The process that is the VM.
    fn pid(&self) -> u32;

    /// Waits, without a deadline, until the VM has ended. Later calls return the same.
    fn wait(&mut self) -> Result<VmExit>;

    /// Returns how the VM ended, or `None` while it runs.
    fn try_wait(&mut self) -> Result<Option<VmExit>>;

    /// A handle to command the VM from any thread, also while another one is in
    /// [`RunningVm::wait`].
    fn control(&self) -> Control;
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmExit {
    /// What became of its process.
    pub cause: ExitCause,
    /// The last of what its process complained about, at most 16 KiB; usually empty.
    pub complaints: String,
}

/// What became of a VM's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest reset itself, which ends the VM; a utility VM's kernel does so when it panics.
    Reset,
    /// The guest's kernel said that it panicked.
    Panicked,
    /// The host told the VM to end.
    Quit,
    /// The VM's process gave up with this exit code.
    Failed(i32),
    /// The VM's process was killed by this signal.
    Killed(i32),
}

impl fmt::Display for VmExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            ExitCause::PoweredOff => write!(f, "the VM powered off")?,
            ExitCause::Reset => write!(f, "the VM's kernel panicked or reset the machine")?,
            ExitCause::Panicked => write!(f, "the guest's kernel panicked")?,
            ExitCause::Quit => write!(f, "the VM was told to end")?,
            ExitCause::Failed(code) => write!(f, "the VM's process failed with code {code}")?,
            ExitCause::Killed(signal) => {
                write!(f, "the VM's process was killed by signal {signal}")?
            }
        }
        if self.complaints.is_empty() { Ok(()) } else { write!(f, ": {}", self.complaints.trim()) }
    }
}
