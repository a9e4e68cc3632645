//! The network devices of a VM that runs: which there are, and how they change.

use crate::failure::chain_of;
use ireko_protocol::agent::{GuestFile, Interface};
use ireko_protocol::plan::{Cable, Nic, VmPlan};
use ireko_protocol::shim::Wiring;
use ireko_vm::{Control, NicKind};
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

/// How long a guest has to let go of a device.
const UNPLUG: Duration = Duration::from_secs(20);
/// How long a link stays down, so that a guest notices, and asks for its address anew.
const FLAP: Duration = Duration::from_secs(3);

/// A VM's network devices, by their numbers.
#[derive(Debug)]
pub struct Nics {
    /// None came or went since the VM began.
    is_original: bool,
    kind: NicKind,
    present: BTreeMap<usize, Present>,
    /// What the guest was told beside.
    files: Vec<GuestFile>,
}

/// What has become of a wish for other devices.
#[derive(Debug, PartialEq, Eq)]
pub enum Rewired {
    /// All is as it was.
    Nothing,
    /// The guest has something to learn.
    Changed {
        /// Devices that have another address than before.
        moved: Vec<usize>,
    },
}

#[derive(Debug, PartialEq)]
enum Present {
    Wired(Nic, Interface),
    /// The guest has not let go of it. Its cable is out.
    Dead,
}

impl Nics {
    /// Those that the VM starts with.
    pub fn new(kind: NicKind, plan: &VmPlan) -> Self {
        let interfaces = plan.configure.interfaces.iter().cloned();
        let all = plan.nics.iter().cloned().zip(interfaces).enumerate();
        let present =
            all.map(|(number, (nic, interface))| (number, Present::Wired(nic, interface)));
        Self {
            is_original: true,
            kind,
            present: present.collect(),
            files: plan.configure.files.clone(),
        }
    }

    /// Whether the VM has the devices that it began with, in their places.
    pub fn is_original(&self) -> bool {
        self.is_original
    }

    /// What the guest was told of its addresses.
    pub fn interfaces(&self) -> Vec<Interface> {
        let told = |present: &Present| match present {
            Present::Wired(_, interface) => Some(interface.clone()),
            Present::Dead => None,
        };
        self.present.values().filter_map(told).collect()
    }

    /// Adds and takes devices until they are those that are wanted.
    ///
    /// # Errors
    /// One cannot be added. A guest that does not let go of one is no error: its wire is dead.
    pub fn rewire(&mut self, vm: &Control, wanted: &Wiring) -> ireko_vm::Result<Rewired> {
        let is_gone = |present: &Present| match present {
            Present::Wired(nic, _) => !wanted.nics.contains(nic),
            Present::Dead => false,
        };
        let gone: Vec<_> =
            self.present.iter().filter_map(|(n, present)| is_gone(present).then_some(*n)).collect();
        let mut is_changed = !gone.is_empty() || self.files != wanted.files;
        self.is_original &= gone.is_empty();
        for number in gone {
            match vm.unplug_nic(number, UNPLUG) {
                Ok(()) => drop(self.present.remove(&number)),
                Err(error) => {
                    tracing::warn!(number, "a network device stays: {}", chain_of(&error));
                    self.present.insert(number, Present::Dead);
                }
            }
        }
        let mut moved = Vec::new();
        for (nic, interface) in wanted.nics.iter().zip(&wanted.interfaces) {
            let now = Present::Wired(nic.clone(), interface.clone());
            let same = |present: &Present| matches!(present, Present::Wired(one, _) if one == nic);
            match self.present.iter_mut().find(|(_, present)| same(present)) {
                Some((_, present)) if *present == now => {}
                Some((number, present)) => {
                    *present = now;
                    moved.push(*number);
                }
                None => {
                    let free = (0..).find(|number| !self.present.contains_key(number));
                    let number = free.unwrap_or_default();
                    vm.plug_nic(self.kind, number, &as_spec(nic))?;
                    self.present.insert(number, now);
                    self.is_original = false;
                    is_changed = true;
                }
            }
        }
        self.files.clone_from(&wanted.files);
        Ok(match is_changed || !moved.is_empty() {
            true => Rewired::Changed { moved },
            false => Rewired::Nothing,
        })
    }
}

/// Takes the cables of these devices out for a while: a guest that asks for its addresses does so
/// anew.
///
/// # Errors
/// The VM has ended, or does not answer.
pub fn flap(vm: &Control, numbers: &[usize]) -> ireko_vm::Result<()> {
    for number in numbers {
        vm.set_link(*number, false)?;
    }
    if !numbers.is_empty() {
        thread::sleep(FLAP);
    }
    numbers.iter().try_for_each(|number| vm.set_link(*number, true))
}

/// A device as the VM's driver knows it.
pub fn as_spec(nic: &Nic) -> ireko_vm::Nic {
    let cable = match &nic.cable {
        Cable::Socket(path) => ireko_vm::Cable::Socket(path.clone()),
        Cable::Tap(name) => ireko_vm::Cable::Tap(name.clone()),
    };
    ireko_vm::Nic { mac: nic.mac.0, cable }
}
