//! Work that only a guest can do with a disk, in a VM of its own.

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::host_limits::{clear_up, group_in};
use crate::monitor::lost;
use crate::names::random_hex;
use crate::plan::bare_guest;
use crate::shim_client::{AskError, BOOT, Connection, ShimSocket};
use crate::shim_process::{LISTEN, OwnProcess};
use crate::start::{shim_log, why_it_ended, write_plan};
use crate::store::{ImageInfo, Name, NewImage};
use ireko_images::{Held, NameInUse};
use ireko_protocol::plan::{StartChoice, VERSION, VmPlan, Work};
use ireko_protocol::shim::{Answer, Request};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Memory of a VM that works on a disk, in MiB.
const MEMORY_MIB: u64 = 512;
/// Time for the largest archive on the slowest machine.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// Time for a guest to write out what is in its memory, unmount and power off.
const POWER_OFF: Duration = Duration::from_secs(300);
/// Time for a shim that has said how its VM ended to end itself.
const FAREWELL: Duration = Duration::from_secs(30);

/// What a VM that works with files finds on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestDisk {
    /// A container's root file system, and nothing else.
    FileSystem,
    /// A whole operating system, its root file system in a partition.
    System,
}

impl GuestDisk {
    /// That of a container or image that is a machine's, or not.
    pub(crate) fn of(is_machine: bool) -> Self {
        if is_machine { Self::System } else { Self::FileSystem }
    }
}

/// An image that work in a guest makes of another.
pub(crate) struct Derived {
    /// What is done with its disk; `None` is nothing.
    pub(crate) work: Option<Work>,
    /// Its system has no identity of its own.
    pub(crate) generalized: bool,
    /// What was done, in a word.
    pub(crate) word: &'static str,
    /// Whether it takes its name from an image that has it.
    pub(crate) in_use: NameInUse,
}

/// The shim of a VM that works on a disk.
struct Worker {
    plan: VmPlan,
    socket: ShimSocket,
    process: OwnProcess,
    /// The disk's files stay what they are.
    _held: Held,
}

impl Worker {
    async fn reach(&mut self) -> Result<()> {
        self.process.reach(&self.socket, &shim_log(&self.plan.state_dir), LISTEN).await
    }

    /// Clears up after the shim, and tells how the work went; `answer` is the one to `Wait`.
    async fn ended(mut self, answer: std::result::Result<Answer, AskError>) -> Result<()> {
        self.process.end_within(FAREWELL).await;
        clear_up(self.plan.runtime_dir.clone(), group_in(&self.plan.state_dir)).await;
        let ended = match answer {
            Ok(Answer::Ended(record)) => record,
            Ok(_) => lost(&self.plan.vm),
            Err(error) => {
                let broken = error.into_error(|| "wait for the VM".into());
                tracing::warn!(error = broken.chain(), "a working VM broke off");
                return Err(why_it_ended(&self.plan.state_dir));
            }
        };
        match (ended.exit_code, ended.error) {
            (0, None) => Ok(()),
            (_, Some(reason)) => Err(Error::internal(reason)),
            (code, None) => {
                Err(Error::internal(format!("the work on the disk ended with code {code}")))
            }
        }
    }
}

/// A VM that works with the files on a disk. One that is dropped ends by itself.
pub(crate) struct FileVm {
    worker: Worker,
    /// The VM stays as long as this is open.
    hold: Connection,
}

impl FileVm {
    /// Whom to ask.
    pub(crate) fn socket(&self) -> &ShimSocket {
        &self.worker.socket
    }

    /// Returns when the disk is unmounted and nobody has it open.
    pub(crate) async fn end(self) -> Result<()> {
        let Self { worker, hold } = self;
        let answer = match worker.socket.send(Request::Wait).await {
            Ok(mut waiting) => {
                drop(hold);
                match tokio::time::timeout(POWER_OFF, waiting.next_answer()).await {
                    Ok(Ok(Some(answer))) => Ok(answer),
                    Ok(Ok(None)) => Err(Error::internal("the VM's shim is gone").into()),
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(Error::internal("the VM does not end").into()),
                }
            }
            Err(error) => Err(error.into()),
        };
        worker.ended(answer).await
    }
}

impl Engine {
    /// Makes an image on top of `source`, whose configuration it has.
    ///
    /// Where the work fails nothing is left of it; where the name is in use and stays, nothing is done.
    pub(crate) async fn derive(
        &self,
        source: &ImageInfo,
        name: Name,
        derived: Derived,
    ) -> Result<ImageInfo> {
        let Derived { work, generalized, word, in_use } = derived;
        let (store, below, wanted) = (Arc::clone(&self.store), source.id, name.clone());
        let pending = blocking(move || {
            // Before the work, too: that may take minutes.
            if in_use == NameInUse::Stays {
                store.check_unused(&wanted)?;
            }
            let ground = store.image_ground(&below)?;
            Ok(store.begin_layer(&ground, &wanted.short())?)
        })
        .await?;
        let done = match work {
            None => Ok(()),
            Some(work) => self.work_in_guest(&pending.leaf, &pending.work_dir, work).await,
        };
        let document = source.config.document();
        let new = NewImage {
            config: document.config.clone(),
            machine: document.machine,
            generalized,
            container: None,
            name: Some(name),
            comment: word.to_owned(),
            author: document.author.clone(),
            created_by: String::new(),
            created: Timestamp::now(),
        };
        let store = Arc::clone(&self.store);
        blocking(move || match done {
            Ok(()) => Ok(store.publish_over(pending, &below, new, in_use)?),
            Err(error) => {
                if let Err(abort) = store.abort_app_layer(pending) {
                    let abort = Error::from(abort).chain();
                    tracing::error!(error = abort, "a layer that was not made is not undone");
                }
                Err(error)
            }
        })
        .await
    }

    /// Has work done on the disk `leaf`, which is unmounted on return.
    ///
    /// `work_dir` takes the plan and what the shim writes.
    pub(crate) async fn work_in_guest(
        &self,
        leaf: &Path,
        work_dir: &Path,
        work: Work,
    ) -> Result<()> {
        let mut vm = self.spawn_worker(leaf, work_dir, work, GuestDisk::FileSystem).await?;
        let answer = match vm.reach().await {
            Ok(()) => vm.socket.ask(Request::Wait, LONGEST).await,
            Err(error) => Err(error.into()),
        };
        vm.ended(answer).await
    }

    /// A VM whose shim does what it is asked about the files on the disk `leaf`, until [`FileVm::end`].
    pub(crate) async fn file_vm(
        &self,
        leaf: &Path,
        work_dir: &Path,
        disk: GuestDisk,
    ) -> Result<FileVm> {
        let mut worker = self.spawn_worker(leaf, work_dir, Work::Files, disk).await?;
        let held = match worker.reach().await {
            Ok(()) => worker.socket.open(Request::Hold, BOOT).await,
            Err(error) => Err(error.into()),
        };
        match held {
            Ok((_, hold)) => Ok(FileVm { worker, hold }),
            Err(error) => Err(match worker.ended(Err(error)).await {
                Err(error) => error,
                Ok(()) => Error::internal("the VM ended before it was asked for anything"),
            }),
        }
    }

    async fn spawn_worker(
        &self,
        leaf: &Path,
        work_dir: &Path,
        work: Work,
        disk: GuestDisk,
    ) -> Result<Worker> {
        let vm = random_hex(12);
        let (engine, leaf, work_dir) = (self.clone(), leaf.to_owned(), work_dir.to_owned());
        let (plan, held) = blocking(move || {
            let (chain, held) = engine.store.hold_chain(&leaf)?;
            let mut plan = engine.plan_work(vm, chain, &work_dir, work);
            plan.configure.system = disk == GuestDisk::System;
            write_plan(&plan)?;
            Ok((plan, held))
        })
        .await?;
        let socket = ShimSocket::in_folder(&plan.runtime_dir);
        let process = self.spawn_shim(&plan)?;
        Ok(Worker { plan, socket, process, _held: held })
    }

    fn plan_work(&self, vm: String, chain: Vec<PathBuf>, work_dir: &Path, work: Work) -> VmPlan {
        VmPlan {
            version: VERSION,
            chain,
            disks: Vec::new(),
            runtime_dir: self.places().vm_dir(&vm),
            state_dir: work_dir.to_owned(),
            cache: self.places().cache.clone(),
            memory_mib: MEMORY_MIB,
            vcpus: 1,
            nics: Vec::new(),
            group: self.limits.group(&vm),
            accel: self.settings.accel,
            start: StartChoice::Auto,
            configure: bare_guest("ireko-work".into()),
            work,
            disposable: false,
            log_limit: None,
            vm,
        }
    }
}
