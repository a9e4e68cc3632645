//! VMs that stand by for containers to come.
//!
//! ```text
//!   a start from a template ─► a quiet moment ─► one more spare of that shape
//!   a start of that shape   ─► Claim ─► the spare's shim is the container's
//! ```
//! A spare that does not answer costs a start from a template, nothing else. Each has a folder in
//! `<root>/spares`, by which those of a daemon that is gone are found and ended.

use crate::blocking::{blocking, lock};
use crate::container::Container;
use crate::create::check_resources;
use crate::durable;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::host_limits::{clear_up, group_in};
use crate::names::random_hex;
use crate::plan::bare_guest;
use crate::shim_client::{AskError, QUICK, ShimSocket, unexpected};
use crate::shim_process::OwnProcess;
use crate::spec::{Resources, StartChoice};
use crate::start::{plan_file, shim_log, write_plan};
use crate::state::ContainerRecord;
use ireko_protocol::network::MacAddress;
use ireko_protocol::plan::{Cable, Nic, VERSION, VmPlan, Work};
use ireko_protocol::shim::{Answer, Request};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The most that stand by, of all shapes together.
const MOST: usize = 4;
/// Nothing has started for so long before another is made: it takes a second of CPU.
const CALM: Duration = Duration::from_secs(1);
/// How often that is seen.
const LOOK: Duration = Duration::from_millis(100);
/// Time for a spare to be ready, a template that has to be made first included.
const READY: Duration = Duration::from_secs(600);
/// Memory in MiB that is left to the host beside what a spare may come to take.
const LEFT_TO_THE_HOST: u64 = 1024;

/// What containers that can have the same VM have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Guest RAM in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Network devices.
    pub nics: usize,
}

impl Shape {
    /// That of containers with these resources on so many networks.
    pub fn of(resources: &Resources, networks: usize) -> Self {
        Self { memory_mib: resources.vm_memory().0, vcpus: resources.vm_cpus().0, nics: networks }
    }
}

/// Those that stand by.
#[derive(Debug)]
pub(crate) struct Pool {
    /// How many of each shape.
    size: usize,
    spares: Mutex<Vec<Spare>>,
    /// Held while one is made: two at once take longer.
    making: tokio::sync::Mutex<()>,
    /// Containers that are being started.
    starting: AtomicUsize,
    last_start: Mutex<Instant>,
    closed: AtomicBool,
}

/// A VM that stands by.
#[derive(Debug)]
pub(crate) struct Spare {
    /// Its id; that of the container's VM, once it is one.
    pub(crate) vm: String,
    shape: Shape,
    process: OwnProcess,
    folder: PathBuf,
}

/// Counts a start as long as it lasts.
pub(crate) struct Starting<'a>(&'a Pool);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        *lock(&self.0.last_start) = Instant::now();
        self.0.starting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// One that keeps so many of each shape; none where that is 0.
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            spares: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            starting: AtomicUsize::new(0),
            last_start: Mutex::new(Instant::now()),
            closed: AtomicBool::new(false),
        }
    }

    /// Says that a container starts.
    pub(crate) fn starting(&self) -> Starting<'_> {
        self.starting.fetch_add(1, Ordering::Relaxed);
        Starting(self)
    }

    fn take(&self, shape: Shape) -> Option<Spare> {
        let mut spares = lock(&self.spares);
        let place = spares.iter().position(|spare| spare.shape == shape)?;
        Some(spares.remove(place))
    }

    fn wants(&self, shape: Shape) -> bool {
        self.count(shape) < self.size && !self.closed.load(Ordering::Relaxed)
    }

    fn count(&self, shape: Shape) -> usize {
        lock(&self.spares).iter().filter(|spare| spare.shape == shape).count()
    }

    /// Takes out those that ended by themselves.
    fn take_ended(&self) -> Vec<Spare> {
        lock(&self.spares).extract_if(.., |spare| spare.process.has_ended()).collect()
    }

    /// Takes one in; the one that has to go for it, which has stood by longest.
    fn add(&self, spare: Spare) -> Option<Spare> {
        if self.closed.load(Ordering::Relaxed) {
            return Some(spare);
        }
        let mut spares = lock(&self.spares);
        spares.push(spare);
        (spares.len() > MOST).then(|| spares.remove(0))
    }

    async fn await_calm(&self) {
        while self.starting.load(Ordering::Relaxed) > 0 || lock(&self.last_start).elapsed() < CALM {
            sleep(LOOK).await;
        }
    }
}

impl Engine {
    /// The VM that stands by for a container to start in; `None` where there is none for it.
    ///
    /// Errors where the container asks for one of them and nothing else.
    pub(crate) fn spare_for(&self, container: &Container) -> Result<Option<Spare>> {
        self.forget_ended();
        let record = container.record();
        let spare = self.shape_of(&record).and_then(|shape| self.pool.take(shape));
        match (record.spec.start, spare) {
            (StartChoice::Pool, None) => Err(Error::conflict(
                "no VM of this container's memory, CPUs and networks stands by",
            )
            .hint("`ireko warm` makes one, where the daemon was started with a pool")),
            (_, spare) => Ok(spare),
        }
    }

    /// The shape of a container that may have a spare.
    pub(crate) fn shape_of(&self, record: &ContainerRecord) -> Option<Shape> {
        let may = matches!(record.spec.start, StartChoice::Auto | StartChoice::Pool)
            && !record.process.is_machine()
            && record.endpoints.iter().all(|endpoint| {
                let network = self.networks.get(&endpoint.network);
                network.is_ok_and(|network| !network.record.is_bridged())
            });
        may.then(|| Shape::of(&record.spec.resources, record.endpoints.len()))
    }

    /// The shim of a plan in the VM that stood by. Where that cannot be had nothing is left of it.
    pub(crate) async fn claim(&self, mut spare: Spare, plan: &VmPlan) -> Result<OwnProcess> {
        let socket = ShimSocket::in_folder(&plan.runtime_dir);
        let request =
            Request::Claim { plan: plan_file(&plan.state_dir), log: shim_log(&plan.state_dir) };
        let refused = match socket.ask(request, QUICK).await {
            Ok(Answer::Done) => {
                remove_folder(&spare.folder);
                return Ok(spare.process);
            }
            Ok(other) => unexpected("claim", &other),
            Err(AskError::Refused(refusal)) => Error::caused("claim a VM that stands by", refusal),
            Err(AskError::Broken(error)) => error,
        };
        spare.process.kill();
        spare.process.ended().await;
        self.forget(&spare).await;
        Err(refused)
    }

    /// Sees to it that there is one of this shape, when nothing else is to be done.
    pub(crate) fn keep_warm(&self, shape: Shape) {
        self.forget_ended();
        if !self.pool.wants(shape) {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            let _one = engine.pool.making.lock().await;
            engine.pool.await_calm().await;
            if !engine.pool.wants(shape) || !has_memory_for(shape) {
                return;
            }
            match engine.make_spare(shape).await {
                Ok(spare) => engine.keep(spare).await,
                Err(error) => tracing::warn!(error = error.chain(), ?shape, "no VM stands by"),
            }
        });
    }

    /// Makes the template of containers with these resources on so many networks where it is missing, and
    /// has a VM stand by where the daemon keeps any; their shape, and how many of it do.
    ///
    /// Errors where VMs of this shape cannot be saved.
    pub async fn warm(&self, resources: &Resources, networks: usize) -> Result<(Shape, usize)> {
        check_resources(resources)?;
        let shape = Shape::of(resources, networks);
        let _one = self.pool.making.lock().await;
        self.forget_ended();
        if self.pool.wants(shape) || self.pool.size == 0 {
            let spare = self.make_spare(shape).await?;
            match self.pool.size {
                0 => self.dismiss(spare).await,
                _ => self.keep(spare).await,
            }
        }
        Ok((shape, self.pool.count(shape)))
    }

    /// Has a VM stand by, again or from now on.
    pub(crate) async fn keep(&self, spare: Spare) {
        if let Some(surplus) = self.pool.add(spare) {
            self.dismiss(surplus).await;
        }
    }

    async fn dismiss(&self, mut spare: Spare) {
        spare.process.kill();
        spare.process.ended().await;
        self.forget(&spare).await;
    }

    fn forget_ended(&self) {
        for spare in self.pool.take_ended() {
            let engine = self.clone();
            tokio::spawn(async move { engine.forget(&spare).await });
        }
    }

    async fn forget(&self, spare: &Spare) {
        clear_up(self.places().vm_dir(&spare.vm), group_in(&spare.folder)).await;
        remove_folder(&spare.folder);
    }

    async fn make_spare(&self, shape: Shape) -> Result<Spare> {
        let vm = random_hex(12);
        let plan = self.plan_spare(&vm, shape);
        let folder = plan.state_dir.clone();
        let written = plan.clone();
        blocking(move || {
            fs::create_dir_all(&written.state_dir).attempt(|| "make a folder".into())?;
            write_plan(&written)
        })
        .await?;
        let socket = ShimSocket::in_folder(&plan.runtime_dir);
        let mut spare = Spare { vm, shape, process: self.spawn_shim(&plan)?, folder };
        match spare.process.reach(&socket, &shim_log(&plan.state_dir), READY).await {
            Ok(()) => Ok(spare),
            Err(error) => {
                self.dismiss(spare).await;
                Err(error)
            }
        }
    }

    fn plan_spare(&self, vm: &str, shape: Shape) -> VmPlan {
        let runtime_dir = self.places().vm_dir(vm);
        let nic = |number: usize| Nic {
            mac: MacAddress([2, 0, 0, 0, 1, number as u8]),
            cable: Cable::Socket(runtime_dir.join(format!("nic{number}.sock"))),
        };
        VmPlan {
            version: VERSION,
            vm: vm.to_owned(),
            chain: Vec::new(),
            disks: Vec::new(),
            nics: (0..shape.nics).map(nic).collect(),
            state_dir: self.spares_folder().join(vm),
            cache: self.places().cache.clone(),
            memory_mib: shape.memory_mib,
            vcpus: shape.vcpus,
            group: self.limits.group(vm),
            accel: self.settings.accel,
            start: StartChoice::Template,
            configure: bare_guest("ireko".into()),
            work: Work::Spare { empty: self.empty_disk() },
            disposable: false,
            log_limit: None,
            runtime_dir,
        }
    }

    fn spares_folder(&self) -> PathBuf {
        self.places().root.join("spares")
    }

    /// Ends all that stand by, those of a daemon that is gone too, and lets no more be made.
    pub async fn close_pool(&self) {
        self.pool.closed.store(true, Ordering::Relaxed);
        self.clear_spares().await;
    }

    /// Ends all whose folders are there.
    pub(crate) async fn clear_spares(&self) {
        lock(&self.pool.spares).clear();
        let Ok(entries) = fs::read_dir(self.spares_folder()) else { return };
        for entry in entries.flatten() {
            let group = group_in(&entry.path());
            // One that has not read its plan yet will not find it.
            if let Err(error) = durable::remove_file(&plan_file(&entry.path())) {
                tracing::warn!(error = error.chain(), "a VM that stood by");
            }
            if let Ok(Some(mut process)) = OwnProcess::adopt(&entry.path()) {
                process.kill();
                process.ended().await;
            }
            if let Some(vm) = entry.file_name().to_str() {
                clear_up(self.places().vm_dir(vm), group).await;
            }
            remove_folder(&entry.path());
        }
    }
}

fn remove_folder(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, folder = %folder.display(), "a folder is left over");
    }
}

/// Whether the host has memory to spare.
fn has_memory_for(shape: Shape) -> bool {
    let Ok(text) = fs::read_to_string("/proc/meminfo") else { return false };
    available_mib(&text).is_some_and(|mib| mib >= shape.memory_mib + LEFT_TO_THE_HOST)
}

/// Source: proc_meminfo(5).
fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_that_differ_in_their_limits_only_have_one_shape() {
        let shape = |memory, cpu_millis| {
            Shape::of(&Resources { memory, cpu_millis, ..Resources::default() }, 1)
        };
        let usual = Shape { memory_mib: 512, vcpus: 1, nics: 1 };
        assert_eq!(shape(None, None), usual);
        assert_eq!(shape(Some(300 << 20), Some(500)), usual);
        assert_eq!(shape(None, Some(1500)), Shape { vcpus: 2, ..usual });
    }

    #[test]
    fn what_the_host_has_left_is_read_in_mib() {
        let text = "MemTotal:       24597128 kB\nMemAvailable:   10485760 kB\nBuffers: 1 kB\n";
        assert_eq!(available_mib(text), Some(10 * 1024));
        assert_eq!(available_mib("MemTotal: 1 kB"), None);
    }
}
