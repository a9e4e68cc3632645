//! Going on from a template: a VM that was booted once and saved before it knew whose it is.
//!
//! ```text
//!   no template yet:  boot, RAM in a file ─► agent's hello ─► hang up ─► save ─► end
//!   then, each time:  QEMU with that RAM, privately ─► state ─► resume ─► the root disk gets its size
//!                     ─► further disks are plugged in
//! ```
//! The saved guest has an empty place for its root disk and network devices without an address of their
//! own; the `Configure` that follows tells it who it is. Whoever wants a template that another shim is
//! making waits for it: two boots at once take longer.

use crate::control::Shared;
use crate::failure::Failure;
use crate::guest::Guest;
use crate::utility::{BOOT_LIMIT, Ingredients};
use crate::vm::{Vm, accel_name, make_known};
use ireko_disk::Disk;
use ireko_protocol::agent::{Configure, DiskSerial};
use ireko_protocol::network::MacAddress;
use ireko_protocol::plan::{VmPlan, Work};
use ireko_vm::template::{Key, Shape, Template, Templates};
use ireko_vm::{Boot, Cable, DiskAttachment, DiskSource, KernelBoot, Qemu, VmDriver, VmSpec};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Sizes of memory, in MiB, that templates are made for. A saved VM's file has the kernel's own tables
/// in it, which grow with its memory.
const MEMORY_CLASSES: [u64; 6] = [128, 256, 512, 1024, 2048, 4096];

/// How often a VM is launched before its template is at fault: QEMU 7.2 crashes once in some hundred
/// and fifty times that it is told to go on from a state it has just taken.
const ATTEMPTS: u32 = 4;

/// A VM that goes on from a template; the template stays as long as this value.
pub struct Clone {
    /// The VM. Its CPUs run.
    pub vm: Vm,
    key: Key,
    template: Template,
}

/// Why a VM of this plan cannot go on from a template, for people.
pub fn obstacle(plan: &VmPlan) -> Option<String> {
    match &plan.work {
        Work::Container { .. } | Work::ApplyTar { .. } | Work::Files | Work::Spare { .. }
            if MEMORY_CLASSES.contains(&plan.memory_mib) =>
        {
            None
        }
        Work::Container { .. } | Work::ApplyTar { .. } | Work::Files | Work::Spare { .. } => {
            let [least, .., most] = MEMORY_CLASSES;
            Some(format!(
                "templates have powers of two from {least} to {most} MiB of memory, not {} MiB",
                plan.memory_mib
            ))
        }
        Work::Machine { .. } => Some("a whole operating system boots its disk".to_owned()),
        Work::Generalize | Work::Prepare => Some("its disk is no container's".to_owned()),
    }
}

/// Launches a VM that goes on from the plan's template, which is made where it is missing.
pub fn launch(
    plan: &VmPlan,
    ingredients: &Ingredients,
    mut disks: Vec<DiskAttachment>,
    socket: &Path,
    shared: &Shared,
) -> Result<Clone, Failure> {
    let cannot = |error| Failure::of_vm("cannot use a template", &error);
    let templates = Templates::in_cache(&plan.cache);
    let qemu = Qemu::find().map_err(cannot)?;
    let place = DiskAttachment {
        serial: DiskSerial::root().0,
        source: DiskSource::Empty,
        read_only: false,
    };
    let mut spec = ingredients.spec(plan, vec![place]);
    let cables: Vec<_> = spec.nics.iter().map(|nic| nic.cable.clone()).collect();
    for (number, nic) in spec.nics.iter_mut().enumerate() {
        nic.mac = device(number).0;
        nic.cable = Cable::Socket(plan.runtime_dir.join(format!("nobody{number}.sock")));
    }
    let key = Key::of(&qemu, &spec, &ingredients.boot).map_err(cannot)?;
    let shape = Shape {
        accel: accel_name(spec.accel).to_owned(),
        memory_mib: spec.memory_mib,
        vcpus: spec.vcpus,
        nics: spec.nics.len(),
    };
    let template = templates
        .claim(&key, &shape, |folder| {
            make(&qemu, &spec, &ingredients.boot, folder, shared).map_err(NotMade::Failed)
        })
        .map_err(|error| match error {
            NotMade::Failed(failure) => failure,
            NotMade::Cache(error) => cannot(error),
        })?;
    let further = disks.split_off(disks.len().min(1));
    spec.disks = disks;
    for (nic, cable) in spec.nics.iter_mut().zip(cables) {
        nic.cable = cable;
    }
    spec.boot = Boot::Saved(template.saved.clone());
    let mut attempt = 1;
    loop {
        match go_on(plan, &spec, &further, socket, shared) {
            Ok(vm) => return Ok(Clone { vm, key, template }),
            Err(failure) if attempt < ATTEMPTS && !shared.progress.power_off_requested() => {
                tracing::warn!("once more from the template: {}", failure.message);
                attempt += 1;
            }
            Err(failure) => {
                discard(plan, &key, template);
                return Err(failure);
            }
        }
    }
}

/// What a guest that was saved is told that one that booted for itself knows already.
pub fn who_it_is(configure: &mut Configure) {
    for (number, interface) in configure.interfaces.iter_mut().enumerate() {
        interface.device = Some(device(number));
    }
}

/// A VM of this spec with these further disks, whose CPUs run. Where it cannot be had, none is left.
fn go_on(
    plan: &VmPlan,
    spec: &VmSpec,
    further: &[DiskAttachment],
    socket: &Path,
    shared: &Shared,
) -> Result<Vm, Failure> {
    let vm = Vm::launch(plan, spec, socket, shared)?;
    let bytes = shared.disks.lock().first().map_or(0, |(_, disk)| disk.geometry().virtual_size);
    let plug = |(disk, number)| vm.control.plug_disk(number, disk);
    let gone_on = vm
        .control
        .resume()
        .and_then(|()| vm.control.resize_disk(0, bytes))
        .and_then(|()| further.iter().zip(1..).try_for_each(plug));
    match gone_on {
        Ok(()) => Ok(vm),
        Err(error) => {
            vm.switch_off();
            Err(Failure::of_vm("cannot go on from a template", &error))
        }
    }
}

impl Clone {
    /// Puts these disks in the place of the one that it has.
    pub fn exchange_disks(&self, disks: &[DiskAttachment], shared: &Shared) -> Result<(), Failure> {
        let bytes = shared.disks.lock().first().map_or(0, |(_, disk)| disk.geometry().virtual_size);
        disks
            .iter()
            .enumerate()
            .try_for_each(|(number, disk)| match number {
                0 => self.vm.control.replace_disk(0, disk, bytes),
                further => self.vm.control.plug_disk(further, disk),
            })
            .map_err(|error| Failure::of_vm("cannot exchange the VM's disks", &error))
    }

    /// Puts away a VM that does not answer, and the template that it went on from.
    pub fn discard(self, plan: &VmPlan) {
        self.vm.switch_off();
        discard(plan, &self.key, self.template);
    }
}

fn discard(plan: &VmPlan, key: &Key, template: Template) {
    drop(template);
    if let Err(error) = Templates::in_cache(&plan.cache).discard(key) {
        tracing::error!(%error, %key, "a template that does not work is still there");
    }
}

/// Why there is no template.
enum NotMade {
    Failed(Failure),
    Cache(ireko_vm::Error),
}

impl From<ireko_vm::Error> for NotMade {
    fn from(error: ireko_vm::Error) -> Self {
        Self::Cache(error)
    }
}

/// Boots a VM of this spec and saves it in `folder`.
fn make(
    qemu: &Qemu,
    spec: &VmSpec,
    boot: &KernelBoot,
    folder: &Path,
    shared: &Shared,
) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::before_start("cannot make a template", &error);
    let [ram, state] = ["ram", "state"].map(|name| folder.join(name));
    new_file(&ram).and_then(|file| file.set_len(spec.memory_mib << 20)).map_err(cannot)?;
    let mut state = new_file(&state).map_err(cannot)?;
    let boot = KernelBoot { ram: Some(ram), ..boot.clone() };
    let spec = VmSpec { boot: Boot::Kernel(boot), ..spec.clone() };

    shared.group.prepare(&spec)?;
    let mut vm = qemu
        .launch(&spec)
        .map_err(|error| Failure::of_vm("cannot start the VM of a template", &error))?;
    let control = vm.control();
    make_known(shared, &control);
    let guest =
        UnixStream::connect(&spec.ports[0].socket).and_then(Guest::connect).map_err(cannot)?;
    let greeted = guest.await_hello(BOOT_LIMIT);
    guest.hang_up();
    if let Err(error) = greeted {
        let _ = control.power_off_now();
        return Err(Failure::of_guest("the guest of a template did not come up", error));
    }
    let saved = control.save(&mut state, &sockets(&spec));
    let ended = control.power_off_now().and_then(|()| vm.wait());
    saved
        .and(ended.map(drop))
        .map_err(|error| Failure::of_vm("cannot save the VM of a template", &error))
}

fn new_file(path: &Path) -> std::io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// The folder of a VM's sockets.
fn sockets(spec: &VmSpec) -> PathBuf {
    spec.control.parent().map(Path::to_owned).unwrap_or_default()
}

/// The address of a saved guest's network device.
pub fn device(number: usize) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, number as u8 + 1])
}
