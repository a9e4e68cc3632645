//! A machine that is suspended, and one that goes on: its VM saved beside its disks.
//!
//! What makes that safe is [`ireko_vm::suspended`]'s; here is what it has to know of the disks, and of the
//! networks.

use crate::control::{Shared, failed};
use crate::failure::{Failure, chain_of};
use crate::nics::flap;
use ireko_disk::vhdx;
use ireko_protocol::agent::{DiskSerial, FailureKind, Interface};
use ireko_protocol::plan::{SUSPENDED, SUSPENDED_RECORD, VmPlan};
use ireko_protocol::shim::{Answer, Phase};
use ireko_vm::accel::{self, Accel, Verdict};
use ireko_vm::suspended::{Surroundings, Suspended};
use ireko_vm::{Boot, Control, Qemu, VmSpec};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// What tells disks' contents from any other, by the disks' serials.
type DiskIdentities = BTreeMap<String, String>;

/// What is said to whoever cannot go on.
const REMEDY: &str = "hint: `ireko suspend --drop NAME` forgets what was saved; the machine then boots its \
                      disk, as after a power cut";

/// Refuses to go on with disks that somebody wrote to. To be called before they are opened.
pub fn check_disks(plan: &VmPlan) -> Result<(), Failure> {
    let disks = disk_identities(plan)?;
    saved(plan).check_disks(&disks).map_err(|error| cannot_go_on(&chain_of(&error)))
}

/// The files that a VM writes to say when somebody opened them for writing; others never change.
fn disk_identities(plan: &VmPlan) -> Result<DiskIdentities, Failure> {
    identities(&leaves(plan))
        .map_err(|error| Failure::before_start("cannot look at the machine's disks", &error))
}

fn leaves(plan: &VmPlan) -> Vec<(String, PathBuf)> {
    let own = plan.chain.first().map(|leaf| (DiskSerial::root().0, leaf.clone()));
    let others = plan
        .disks
        .iter()
        .filter_map(|disk| Some((disk.serial.0.clone(), disk.chain.first()?.clone())));
    own.into_iter().chain(others).collect()
}

fn identities(leaves: &[(String, PathBuf)]) -> ireko_disk::Result<DiskIdentities> {
    let identity = |(serial, leaf): &(String, PathBuf)| {
        Ok((serial.clone(), vhdx::info(leaf)?.file_write_guid.to_string()))
    };
    leaves.iter().map(identity).collect()
}

/// Refuses what this host cannot give.
pub fn check_nesting(verdict: &Verdict) -> Result<(), Failure> {
    match verdict.accel {
        Accel::Kvm => accel::nesting()
            .map_err(|error| Failure::of_vm("no virtual machines can run in this one", &error)),
        Accel::Tcg => Err(Failure::impossible(format!(
            "no virtual machines can run in this one: that takes KVM, which is not used here ({})",
            verdict.reason
        ))),
    }
}

/// A machine that cannot go on; what was saved stays.
pub fn cannot_go_on(reason: &str) -> Failure {
    Failure::impossible(format!(
        "cannot go on from where the machine was suspended: {reason}\n{REMEDY}"
    ))
}

/// What a running machine needs to be suspended.
pub struct Suspending {
    saved: Suspended,
    leaves: Vec<(String, PathBuf)>,
    spec: VmSpec,
    is_done: AtomicBool,
    one: Mutex<()>,
}

impl Suspending {
    /// Of a machine that runs by this plan.
    pub fn new(plan: &VmPlan, spec: VmSpec) -> Self {
        let saved = saved(plan);
        Self {
            saved,
            leaves: leaves(plan),
            spec,
            is_done: AtomicBool::new(false),
            one: Mutex::default(),
        }
    }

    /// Whether it is suspended: then its end is no failure.
    pub fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// Saves the machine and ends its VM; where that fails it runs on, or stays paused.
    pub fn suspend(&self, shared: &Shared, vm: &Control) -> Result<Answer, Answer> {
        let _one = self.one.lock();
        let told = {
            let nics = shared.nics.lock();
            let original = nics.as_ref().filter(|nics| nics.is_original());
            let Some(nics) = original else {
                let message = "its network devices are not those that it was started with: stop it and \
                               start it again, then it can be suspended";
                return Err(failed(FailureKind::BadInput, message.to_owned()));
            };
            serde_json::to_string(&nics.interfaces())
                .map_err(|error| failed(FailureKind::Other, error.to_string()))?
        };
        let was_paused = shared.progress.status().phase == Phase::Paused;
        let saved = self.save(vm, told);
        match saved {
            Ok(()) => {
                self.is_done.store(true, Ordering::Release);
                // The VM is of no use any more, whatever it says to this.
                if let Err(error) = vm.power_off_now() {
                    tracing::error!("cannot end a suspended VM: {}", chain_of(&error));
                }
                Ok(Answer::Done)
            }
            Err(message) => {
                if !was_paused && let Err(error) = vm.resume() {
                    tracing::error!("the machine does not run on: {}", chain_of(&error));
                }
                Err(failed(FailureKind::Other, message))
            }
        }
    }

    fn save(&self, vm: &Control, told: String) -> Result<(), String> {
        let disks = identities(&self.leaves).map_err(|error| chain_of(&error))?;
        let surroundings = Surroundings { disks, told };
        Qemu::find()
            .and_then(|qemu| self.saved.save(&qemu, vm, &self.spec, surroundings))
            .map_err(|error| chain_of(&error))
    }
}

fn saved(plan: &VmPlan) -> Suspended {
    Suspended::in_folder(&plan.state_dir.join(SUSPENDED), SUSPENDED_RECORD)
}

/// A machine on its way back.
pub struct Resuming {
    /// What it goes on from.
    pub saved: Suspended,
    told: Vec<Interface>,
    now: Vec<Interface>,
}

impl Resuming {
    /// Checks that the plan's VM, whose disks are open, can go on, and has the spec say so.
    pub fn check(plan: &VmPlan, spec: &mut VmSpec) -> Result<Self, Failure> {
        let saved = saved(plan);
        let cannot = |error: ireko_vm::Error| cannot_go_on(&chain_of(&error));
        // Opened, and not written to: another try finds them so.
        saved.opened(disk_identities(plan)?).map_err(cannot)?;
        let told = Qemu::find().and_then(|qemu| saved.check(&qemu, spec)).map_err(cannot)?;
        if let Boot::Firmware(boot) = &mut spec.boot {
            boot.resume = Some(saved.state());
        }
        let told = serde_json::from_str(&told).map_err(|error| {
            cannot_go_on(&format!("what it was told is not understood: {error}"))
        })?;
        Ok(Self { saved, told, now: plan.configure.interfaces.clone() })
    }

    /// A guest whose addresses are others now asks for them anew, which it does when its cable was out.
    pub fn tell_addresses(self, vm: &Control) {
        let is_other = |number: &usize| self.told.get(*number) != self.now.get(*number);
        let moved: Vec<_> = (0..self.now.len()).filter(is_other).collect();
        if moved.is_empty() {
            return;
        }
        tracing::info!(?moved, "its addresses are others");
        let vm = vm.clone();
        let tell = move || {
            if let Err(error) = flap(&vm, &moved) {
                tracing::warn!("the machine is not told its addresses: {}", chain_of(&error));
            }
        };
        if let Err(error) = thread::Builder::new().name("addresses".into()).spawn(tell) {
            tracing::warn!(%error, "the machine is not told its addresses");
        }
    }
}
