//! A VM that boots the operating system on the container's disk, whichever that is.
//!
//! ```text
//!   QEMU, its CPUs stopped ─► serial line                                          (Booting)
//!     ─► wait for Start ─► CPUs run                                                (Ready)
//!     ─► powered off, switched off, panicked, or reset without end                 (Running)
//! ```
//!
//! Nothing is asked of the system inside. What it says on its serial line is the container's
//! output, and what an attached client types is its input; a reset boots it again.

use crate::console::{self, Console};
use crate::control::{Inside, Shared, failed};
use crate::failure::{Failure, chain_of};
use crate::phase::StartSignal;
use crate::records;
use crate::run::START_LIMIT;
use crate::vm::{End, Vm, acceleration, nics};
use ireko_protocol::agent::FailureKind;
use ireko_protocol::plan::{self, VmPlan};
use ireko_protocol::shim::{Answer, Phase, Request};
use ireko_vm::driver::ExitCause;
use ireko_vm::{
    Boot as VmBoot, Console as VmConsole, DiskAttachment, Firmware, Hardware, MachineBoot, VmExit,
    VmSpec, firmware,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The exit code of what was ended by force, as docker has it: 128 + SIGKILL.
const KILLED: i32 = 137;
/// A system that was not far enough to notice its power button may be so after this.
const PRESS_AGAIN: Duration = Duration::from_secs(15);
/// Linux's numbers of the signals that ask a process to end; systemd's `halt` is RTMIN+3.
const ENDING: [i32; 6] = [1, 2, 3, 15, 30, 37];
const KILL: i32 = 9;

/// What boots.
pub struct Boot<'a> {
    /// What runs first.
    pub firmware: plan::Firmware,
    /// Which devices it finds.
    pub hardware: plan::Hardware,
    /// Where UEFI keeps its variables.
    pub nvram: &'a Path,
}

/// A running machine, as requests see it.
pub struct Machine {
    vm: ireko_vm::Control,
    /// Its serial line.
    pub console: Console,
    /// Somebody is at the power button already.
    pressing: AtomicBool,
}

/// Boots the disk and stays with it to its end; the container's exit code.
pub fn run(
    plan: &VmPlan,
    boot: &Boot<'_>,
    root: DiskAttachment,
    socket: &Path,
    shared: &Arc<Shared>,
) -> Result<i32, Failure> {
    let line = plan.runtime_dir.join("console.sock");
    let spec = VmSpec {
        name: plan.vm.clone(),
        accel: acceleration(plan)?.accel,
        memory_mib: plan.memory_mib,
        vcpus: plan.vcpus,
        boot: VmBoot::Firmware(MachineBoot {
            firmware: find_firmware(boot)?,
            hardware: match boot.hardware {
                plan::Hardware::Virtio => Hardware::Virtio,
                plan::Hardware::Compatible => Hardware::Compatible,
            },
        }),
        disks: vec![root],
        ports: Vec::new(),
        nics: nics(plan),
        control: plan.runtime_dir.join("qmp.sock"),
        console: VmConsole::Socket(line.clone()),
    };
    let vm = Vm::launch(plan, &spec, socket, shared)?;
    let (console, output) = console::open(&line)
        .map_err(|error| Failure::before_start("cannot reach the machine's serial line", &error))?;
    if let Inside::Machine(place) = &shared.inside {
        let pressing = AtomicBool::new(false);
        // Set once: this is the only launch of this process.
        let _ = place.set(Arc::new(Machine { vm: vm.control.clone(), console, pressing }));
    }
    shared.progress.enter(Phase::Ready);
    match shared.progress.await_start(START_LIMIT) {
        StartSignal::Start => {}
        StartSignal::PowerOff => {
            vm.switch_off();
            return Ok(KILLED);
        }
        StartSignal::Deadline => {
            vm.switch_off();
            return Err(Failure::never_started());
        }
    }
    let looping = watch_for_resets(&vm)
        .map_err(|error| Failure::before_start("cannot watch the machine", &error))?;
    shared
        .fanout
        .deliver_console(output)
        .map_err(|error| Failure::before_start("cannot carry the machine's console", &error))?;
    vm.control.resume().map_err(|error| Failure::of_vm("cannot let the machine run", &error))?;
    shared.progress.started(records::now());
    let end = vm.end();
    let is_looping = looping.join().unwrap_or_default();
    verdict(&end, is_looping, shared.progress.power_off_requested())
}

fn find_firmware(boot: &Boot<'_>) -> Result<Firmware, Failure> {
    let uefi = |secure_boot| {
        firmware::uefi(boot.nvram, secure_boot)
            .map(Firmware::Uefi)
            .map_err(|error| Failure::of_vm("cannot boot by UEFI", &error))
    };
    match boot.firmware {
        plan::Firmware::Bios => Ok(Firmware::Bios),
        plan::Firmware::Uefi => uefi(false),
        plan::Firmware::UefiSecure => uefi(true),
    }
}

/// Switches a machine off that resets itself without end; the thread's result says whether it did.
fn watch_for_resets(vm: &Vm) -> std::io::Result<thread::JoinHandle<bool>> {
    let control = vm.control.clone();
    thread::Builder::new().name("resets".into()).spawn(move || {
        let is_looping = control.await_reset_loop();
        if is_looping && let Err(error) = control.power_off_now() {
            tracing::error!("cannot switch the VM off: {}", chain_of(&error));
        }
        is_looping
    })
}

/// What a machine's end is as a container's.
fn verdict(end: &End, is_looping: bool, by_force: bool) -> Result<i32, Failure> {
    if by_force {
        return Ok(KILLED);
    }
    if is_looping {
        return Err(Failure::lost(
            "the machine reset itself ten times in five minutes and was switched off: \
             its console tells how far it got",
        ));
    }
    match end {
        End::Exit(VmExit { cause: ExitCause::PoweredOff, .. }) => Ok(0),
        other => Err(Failure::lost(other.to_string())),
    }
}

impl Machine {
    /// Answers the requests that concern the machine itself.
    pub fn answer(self: &Arc<Self>, shared: &Shared, request: &Request) -> Result<Answer, Answer> {
        match request {
            // A serial line has no size.
            Request::Resize { .. } => Ok(Answer::Done),
            Request::Signal { signal: KILL } => {
                shared.progress.request_power_off();
                done(self.vm.power_off_now())
            }
            Request::Signal { signal } if ENDING.contains(signal) => self.press_power_button(),
            Request::Signal { signal } => Err(failed(
                FailureKind::BadInput,
                format!(
                    "a whole operating system takes no signal {signal}: those that ask for an end press \
                 its power button, SIGKILL switches it off"
                ),
            )),
            Request::Pause => {
                let answer = done(self.vm.pause())?;
                shared.progress.enter(Phase::Paused);
                Ok(answer)
            }
            Request::Unpause => {
                let answer = done(self.vm.resume())?;
                shared.progress.enter(Phase::Running);
                Ok(answer)
            }
            _ => Err(nobody_to_ask()),
        }
    }

    /// Presses it now, and again now and then while the machine is still on.
    fn press_power_button(self: &Arc<Self>) -> Result<Answer, Answer> {
        let answer = done(self.vm.press_power_button())?;
        if !self.pressing.swap(true, Ordering::Relaxed) {
            let machine = Arc::clone(self);
            let again = move || {
                loop {
                    thread::sleep(PRESS_AGAIN);
                    if machine.vm.press_power_button().is_err() {
                        return;
                    }
                }
            };
            if let Err(error) = thread::Builder::new().name("power button".into()).spawn(again) {
                tracing::warn!(%error, "the power button is pressed only once");
            }
        }
        Ok(answer)
    }
}

fn done(result: ireko_vm::Result<()>) -> Result<Answer, Answer> {
    result.map(|()| Answer::Done).map_err(|error| failed(FailureKind::Other, chain_of(&error)))
}

/// The answer to what only somebody inside could do.
pub fn nobody_to_ask() -> Answer {
    failed(
        FailureKind::Other,
        "a whole operating system runs in this container, and nobody in it can be asked: use its \
         console, `ireko console NAME`"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(cause: ExitCause) -> End {
        End::Exit(VmExit { cause, complaints: String::new() })
    }

    #[test]
    fn a_machine_that_powers_itself_off_exits_with_0_and_one_that_is_switched_off_with_137() {
        assert!(matches!(verdict(&ended(ExitCause::PoweredOff), false, false), Ok(0)));
        assert!(matches!(verdict(&ended(ExitCause::Quit), false, true), Ok(137)));
    }

    #[test]
    fn every_other_end_says_what_happened() {
        let failure = |end: &End, looping| verdict(end, looping, false).unwrap_err();
        let panicked = failure(&ended(ExitCause::Panicked), false);
        assert_eq!(panicked.exit_code, 255);
        assert!(panicked.message.contains("kernel panicked"));
        assert!(failure(&ended(ExitCause::Quit), true).message.contains("reset itself"));
        assert!(failure(&ended(ExitCause::Killed(9)), false).message.contains("signal 9"));
        assert!(failure(&End::Unknown("why".into()), false).message.contains("why"));
    }
}
