//! QEMU, from its launch to its end.

use crate::control::Shared;
use crate::failure::{Failure, chain_of};
use crate::nics::{Nics, as_spec};
use crate::records;
use ireko_protocol::plan::{AccelChoice, VmPlan};
use ireko_protocol::shim::Origin;
use ireko_vm::accel::{self, Accel};
use ireko_vm::{Boot, Control, Nic, NicKind, Qemu, VmDriver, VmExit, VmSpec};
use std::fmt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// How long QEMU may take to go once it was told to.
pub const QUIT_LIMIT: Duration = Duration::from_secs(10);

/// How this VM's CPUs are to be run.
pub fn acceleration(plan: &VmPlan) -> Result<accel::Verdict, Failure> {
    let choice = match plan.accel {
        AccelChoice::Auto => accel::Choice::Auto,
        AccelChoice::Kvm => accel::Choice::Kvm,
        AccelChoice::Tcg => accel::Choice::Tcg,
    };
    accel::verdict(&plan.cache, choice)
        .map_err(|error| Failure::of_vm("cannot accelerate the VM", &error))
}

/// Its network devices.
pub fn nics(plan: &VmPlan) -> Vec<Nic> {
    plan.nics.iter().map(as_spec).collect()
}

/// A VM that was launched, and what tells that it ended.
pub struct Vm {
    /// Commands it.
    pub control: Control,
    /// Its process.
    pub pid: u32,
    accel: &'static str,
    nics: NicKind,
    ended: Receiver<End>,
}

/// How a VM ended.
#[derive(Clone, Debug)]
pub enum End {
    /// As its driver says.
    Exit(VmExit),
    /// Nobody knows, for this reason.
    Unknown(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(exit) => exit.fmt(f),
            Self::Unknown(reason) => f.write_str(reason),
        }
    }
}

impl Vm {
    /// Launches QEMU, on the thread it is to die with, and makes it known: to whoever asks this
    /// process, and in `shim.json`. A power-off that was asked for before is carried out.
    pub fn launch(
        plan: &VmPlan,
        spec: &VmSpec,
        socket: &Path,
        shared: &Shared,
    ) -> Result<Self, Failure> {
        shared.group.prepare(spec)?;
        let mut running = Qemu::find()
            .and_then(|qemu| qemu.launch(spec))
            .map_err(|error| Failure::of_vm("cannot start the VM", &error))?;
        let origin = match &spec.boot {
            Boot::Firmware(boot) if boot.resume.is_some() => Origin::Suspended,
            Boot::Kernel(_) | Boot::Firmware(_) => Origin::Cold,
            Boot::Saved(_) => Origin::Template,
        };
        let (tell, ended) = mpsc::channel();
        let vm = Self {
            control: running.control(),
            pid: running.pid(),
            accel: accel_name(spec.accel),
            nics: NicKind::of(&spec.boot),
            ended,
        };
        vm.introduce(plan, origin, shared);
        records::write_shim_record(plan, socket, vm.pid)
            .map_err(|error| Failure::before_start("cannot write shim.json", &error))?;
        thread::Builder::new()
            .name("vm".into())
            .spawn(move || {
                let end = match running.wait() {
                    Ok(exit) => End::Exit(exit),
                    Err(error) => End::Unknown(chain_of(&error)),
                };
                // The main thread may have stopped listening after the deadline.
                let _ = tell.send(end);
            })
            .map_err(|error| Failure::before_start("cannot watch the VM", &error))?;
        Ok(vm)
    }

    /// Lets whoever asks this process know of the VM, and end it.
    pub fn introduce(&self, plan: &VmPlan, origin: Origin, shared: &Shared) {
        shared.progress.launched(self.accel, origin, self.pid);
        *shared.nics.lock() = Some(Nics::new(self.nics, plan));
        make_known(shared, &self.control);
    }

    /// How it ended, once it has; `None` at the deadline.
    pub fn await_end(&self, limit: Duration) -> Option<End> {
        match self.ended.recv_timeout(limit) {
            Ok(end) => Some(end),
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(watch_lost()),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
        }
    }

    /// How it ended, whenever that is.
    pub fn end(&self) -> End {
        self.ended.recv().unwrap_or_else(|_| watch_lost())
    }

    /// Switches it off, and waits until it is.
    pub fn switch_off(&self) {
        self.end_by(Control::power_off_now);
    }

    /// Ends it as a power cut would, and waits until it has.
    pub fn kill(&self) {
        self.end_by(Control::kill);
    }

    fn end_by(&self, end: impl FnOnce(&Control) -> ireko_vm::Result<()>) {
        if let Err(error) = end(&self.control) {
            tracing::error!("cannot switch the VM off: {}", chain_of(&error));
        }
        if self.await_end(QUIT_LIMIT).is_none() {
            tracing::error!("QEMU does not end; it goes with this process");
        }
    }
}

/// Lets whoever asks this process end the VM. A power-off that was asked for before is carried out.
pub fn make_known(shared: &Shared, control: &Control) {
    *shared.vm.lock() = Some(control.clone());
    if shared.progress.power_off_requested() {
        let _ = control.power_off_now();
    }
}

/// What the acceleration is called.
pub fn accel_name(accel: Accel) -> &'static str {
    match accel {
        Accel::Kvm => "kvm",
        Accel::Tcg => "tcg",
    }
}

fn watch_lost() -> End {
    End::Unknown("QEMU ended".to_owned())
}
