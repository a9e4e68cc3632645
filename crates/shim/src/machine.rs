//! A VM that boots the operating system on the container's disk, whichever that is.
//!
//! ```text
//!   QEMU, its CPUs stopped ─► serial line                                          (Booting)
//!     ─► wait for Start ─► CPUs run                                                (Ready)
//!     ─► powered off, switched off, panicked, or reset without end                 (Running)
//! ```
//!
//! What the system inside says on its serial line is the container's
//! output, and what an attached client types is its input; a reset boots it again.
//! Only an agent in it, where there is one, is asked for anything: to hold its file systems still, to shut
//! down, to run a program.

use crate::console::{self, Console};
use crate::control::{Inside, Shared, failed};
use crate::failure::{Failure, chain_of};
use crate::guest::{Guest, ORDINARY};
use crate::machine_agents::MachineAgents;
use crate::phase::StartSignal;
use crate::qemu_ga;
use crate::records;
use crate::run::START_LIMIT;
use crate::suspend::{self, Resuming, Suspending};
use crate::sysprep;
use crate::vm::{End, Vm, acceleration, nics};
use ireko_protocol::agent::{DiskSerial, FailureKind, PORT_NAME, ProcessId, RequestBody};
use ireko_protocol::plan::{self, VmPlan};
use ireko_protocol::shim::{Answer, Keys, Phase, Request, SCREEN_SOCKET};
use ireko_vm::driver::ExitCause;
use ireko_vm::{
    Boot as VmBoot, Console as VmConsole, DiskAttachment, DiskSource, Firmware, GuestPort,
    Hardware, MachineBoot, VmExit, VmSpec, firmware, keys,
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
    /// A disk that tells its first boot who it is.
    pub seed: Option<&'a Path>,
    /// Its CPUs can run virtual machines.
    pub nested: bool,
    /// It goes on from where it was suspended.
    pub resume: bool,
}

/// A running machine, as requests see it.
pub struct Machine {
    vm: ireko_vm::Control,
    /// Its serial line.
    pub console: Console,
    /// The agents that its system may have.
    pub agents: MachineAgents,
    /// Somebody is at the power button already.
    pressing: AtomicBool,
    /// Somebody asks its other agent to thaw already.
    pub thawing: AtomicBool,
    suspending: Suspending,
}

/// Boots the disk and stays with it to its end; the container's exit code.
pub fn run(
    plan: &VmPlan,
    boot: &Boot<'_>,
    disks: Vec<DiskAttachment>,
    socket: &Path,
    shared: &Arc<Shared>,
) -> Result<i32, Failure> {
    let line = plan.runtime_dir.join("console.sock");
    let [ours, qemu_ga] = ["agent.sock", "qemu-ga.sock"].map(|name| plan.runtime_dir.join(name));
    let seed = boot.seed.map(|path| DiskAttachment {
        serial: DiskSerial::seed().0,
        source: DiskSource::RawFile { path: path.to_owned() },
        read_only: true,
    });
    let acceleration = acceleration(plan)?;
    if boot.nested {
        suspend::check_nesting(&acceleration)?;
    }
    let mut spec = VmSpec {
        name: plan.vm.clone(),
        accel: acceleration.accel,
        memory_mib: plan.memory_mib,
        vcpus: plan.vcpus,
        boot: VmBoot::Firmware(MachineBoot {
            firmware: find_firmware(boot)?,
            hardware: match boot.hardware {
                plan::Hardware::Virtio => Hardware::Virtio,
                plan::Hardware::Compatible => Hardware::Compatible,
            },
            nested: boot.nested,
            resume: None,
            screen: plan.runtime_dir.join(SCREEN_SOCKET),
        }),
        disks: disks.into_iter().chain(seed).collect(),
        // In the order of `qemu_ga::PORT` and `machine_agents::PORT`.
        ports: vec![
            GuestPort { name: qemu_ga::PORT_NAME.to_owned(), socket: qemu_ga.clone() },
            GuestPort { name: PORT_NAME.to_owned(), socket: ours.clone() },
        ],
        nics: nics(plan),
        control: plan.runtime_dir.join("qmp.sock"),
        console: VmConsole::Socket(line.clone()),
        group: plan.group.clone(),
    };
    let resuming = boot.resume.then(|| Resuming::check(plan, &mut spec)).transpose()?;
    let vm = match Vm::launch(plan, &spec, socket, shared) {
        Err(failure) if resuming.is_some() => return Err(suspend::cannot_go_on(&failure.message)),
        launched => launched?,
    };
    let (console, output) = console::open(&line)
        .map_err(|error| Failure::before_start("cannot reach the machine's serial line", &error))?;
    if let Inside::Machine(place) = &shared.inside {
        let [pressing, thawing] = [false; 2].map(AtomicBool::new);
        // Set once: this is the only launch of this process.
        let _ = place.set(Arc::new(Machine {
            vm: vm.control.clone(),
            console,
            agents: MachineAgents::new(ours, qemu_ga, vm.control.clone()),
            pressing,
            thawing,
            suspending: Suspending::new(plan, spec),
        }));
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
    if let Some(resuming) = &resuming {
        // From here on its disks are no longer what was saved with it.
        resuming
            .saved
            .forget()
            .map_err(|error| Failure::of_vm("cannot let the machine go on", &error))?;
    }
    vm.control.resume().map_err(|error| Failure::of_vm("cannot let the machine run", &error))?;
    shared.progress.started(records::now());
    let machine = match &shared.inside {
        Inside::Machine(place) => place.get(),
        Inside::Agent(_) => None,
    };
    if let (Some(resuming), Some(machine)) = (resuming, machine) {
        machine.set_clock();
        resuming.tell_addresses(&vm.control);
    }
    let end = vm.end();
    let is_looping = looping.join().unwrap_or_default();
    if machine.is_some_and(|machine| machine.suspending.is_done()) {
        return Ok(0);
    }
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
    if let End::Exit(VmExit { cause: ExitCause::PoweredOff, .. }) = end {
        // Even where force was on its way.
        return Ok(0);
    }
    if by_force {
        return Ok(KILLED);
    }
    if is_looping {
        return Err(Failure::lost(
            "the machine reset itself ten times in five minutes and was switched off: \
             its console tells how far it got",
        ));
    }
    Err(Failure::lost(end.to_string()))
}

impl Machine {
    /// Answers the requests that concern the machine itself.
    pub fn answer(self: &Arc<Self>, shared: &Shared, request: &Request) -> Result<Answer, Answer> {
        match request {
            // A serial line has no size.
            Request::Resize { process: ProcessId::INIT, .. } => Ok(Answer::Done),
            Request::Resize { process, rows, columns } => {
                let (process, rows, columns) = (*process, *rows, *columns);
                self.ask_ours(RequestBody::Resize { process, rows, columns })
            }
            Request::Kill { process } => {
                self.ask_ours(RequestBody::Signal { process: *process, signal: KILL })
            }
            Request::Addresses { millis, recent } => {
                let interfaces = self.agents.addresses(Duration::from_millis(*millis), *recent);
                let interfaces = interfaces.map_err(|error| agent_failed(&error))?;
                Ok(Answer::Addresses { interfaces })
            }
            Request::Signal { signal: KILL } => {
                shared.progress.request_power_off();
                done(self.vm.power_off_now())
            }
            Request::Signal { signal } if ENDING.contains(signal) => self.ask_for_its_end(),
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
                self.set_clock();
                Ok(answer)
            }
            Request::Screenshot { file } => done(self.vm.save_screen(file)),
            Request::SetScreenPassword { password } => done(self.vm.set_screen_password(password)),
            Request::SendKeys { keys } => {
                let strokes = match keys {
                    Keys::Named(words) => keys::named(words),
                    Keys::Text(text) => keys::text(text),
                };
                let strokes =
                    strokes.map_err(|error| failed(FailureKind::BadInput, error.to_string()))?;
                done(self.vm.send_keys(&strokes))
            }
            Request::System => match self.agents.qemu_ga.system() {
                Ok(id) => Ok(Answer::System { id }),
                Err(error) => Err(agent_failed(&error)),
            },
            Request::Sysprep { answer_file, seconds } => {
                let (agent, limit) = (&self.agents.qemu_ga, Duration::from_secs(*seconds));
                let is_on = || self.is_on();
                sysprep::sysprep(agent, answer_file.as_deref(), is_on, limit, sysprep::PAUSE)
                    .map(|()| Answer::Done)
                    .map_err(|error| agent_failed(&error))
            }
            Request::Suspend => self.suspending.suspend(shared, &self.vm),
            Request::AwaitAgent { seconds } => self.await_agent(Duration::from_secs(*seconds)),
            _ => Err(nobody_to_ask()),
        }
    }

    /// Who works with its system's files.
    pub fn for_files(&self) -> Result<Arc<Guest>, Answer> {
        match self.agents.ours(ORDINARY) {
            Some(met) => met.map_err(|error| agent_failed(&error)),
            None => Err(nobody_for_files()),
        }
    }

    /// Whether the VM runs still.
    pub fn is_on(&self) -> bool {
        !self.vm.has_ended()
    }

    fn await_agent(&self, limit: Duration) -> Result<Answer, Answer> {
        self.agents.await_one(limit).map(|()| Answer::Done).map_err(|error| agent_failed(&error))
    }

    /// What concerns a program that our agent runs.
    fn ask_ours(&self, body: RequestBody) -> Result<Answer, Answer> {
        let guest = match self.agents.ours(ORDINARY) {
            Some(met) => met.map_err(|error| agent_failed(&error))?,
            None => {
                let message = "the agent that ran this program is gone, or is one that can only wait \
                               for its end";
                return Err(failed(FailureKind::NoSuch, message.to_owned()));
            }
        };
        guest.order(body).map(|()| Answer::Done).map_err(|error| agent_failed(&error))
    }

    /// The clock of a system stood still with it. One without an agent finds out by itself.
    fn set_clock(self: &Arc<Self>) {
        let machine = Arc::clone(self);
        let set = move || {
            if let Err(error) = machine.agents.set_clock() {
                tracing::info!(%error, "the machine's clock is not set");
            }
        };
        if let Err(error) = thread::Builder::new().name("clock".into()).spawn(set) {
            tracing::warn!(%error, "the machine's clock is not set");
        }
    }

    /// By its agent where it has one, else by its power button; that is pressed later in any case,
    /// should it still be on.
    fn ask_for_its_end(self: &Arc<Self>) -> Result<Answer, Answer> {
        match self.agents.shut_down() {
            Ok(()) => {
                self.keep_pressing();
                Ok(Answer::Done)
            }
            Err(error) => {
                tracing::info!(%error, "the power button is pressed");
                self.press_power_button()
            }
        }
    }

    /// Presses it now, and again now and then while the machine is still on.
    fn press_power_button(self: &Arc<Self>) -> Result<Answer, Answer> {
        match self.vm.press_power_button() {
            Err(error) if self.is_on() => return done(Err(error)),
            // One that is off already is what was asked for.
            Ok(()) | Err(_) => {}
        }
        self.keep_pressing();
        Ok(Answer::Done)
    }

    fn keep_pressing(self: &Arc<Self>) {
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
                tracing::warn!(%error, "the power button is not pressed again");
            }
        }
    }
}

fn done(result: ireko_vm::Result<()>) -> Result<Answer, Answer> {
    result.map(|()| Answer::Done).map_err(|error| failed(FailureKind::Other, chain_of(&error)))
}

/// The answer to what an agent did not do.
pub fn agent_failed(error: &dyn std::error::Error) -> Answer {
    failed(FailureKind::Other, chain_of(error))
}

/// The answer to what only Ireko's agent does.
fn nobody_for_files() -> Answer {
    failed(
        FailureKind::BadInput,
        "a running machine's files go through Ireko's agent, which does not run in this one: `ireko image \
         prepare` puts it into an image; a machine that does not run needs none"
            .to_owned(),
    )
}

/// The answer to what no agent does that a system may have.
pub fn nobody_to_ask() -> Answer {
    failed(
        FailureKind::Other,
        "a whole operating system runs in this container, and its processes are its own: use its \
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
        assert!(matches!(verdict(&ended(ExitCause::PoweredOff), false, true), Ok(0)));
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
