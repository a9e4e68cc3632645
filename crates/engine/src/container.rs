//! One container: its record, who may change it, and what is attached to it.
//!
//! The record on disk and the one in memory are the same: it is changed by [`Container::update`],
//! which returns when the change is durable. Only what happened on a full disk is known in memory
//! alone ([`Container::update_regardless`]). Verbs that must not meet (start, commit, rename,
//! remove) hold [`Container::verb`]; stop and kill do not, they only ask the VM.

use crate::attach::MOST_ATTACHED;
use crate::blocking::{blocking, lock};
use crate::durable;
use crate::error::{Error, Result};
use crate::health::HealthLog;
use crate::shim_client::ShimSocket;
use crate::state::{ContainerRecord, DiskRecord, LastRun, RunState};
use crate::streams::Pump;
use ireko_images::{DataDisk, DiskName};
use ireko_protocol::places::Places;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

/// A client that attached before there was a VM.
#[derive(Debug)]
pub(crate) struct PendingAttach {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) pump: Pump,
    /// It is one of [`MOST_ATTACHED`].
    pub(crate) place: OwnedSemaphorePermit,
}

/// One container of the store.
#[derive(Debug)]
pub(crate) struct Container {
    /// 64 lower-case hex digits.
    pub(crate) id: String,
    /// `<root>/containers/<id>`.
    pub(crate) folder: PathBuf,
    /// Held by a verb that must not meet another.
    pub(crate) verb: Arc<tokio::sync::Mutex<()>>,
    /// One writer of `config.json` at a time.
    writing: Mutex<()>,
    now: watch::Sender<Moment>,
    /// Where an attach goes: to the shim, or to those who wait for one.
    streams: Mutex<AttachPoint>,
    /// Clients whose streams are joined to the shim's.
    pub(crate) sessions: TaskTracker,
    attach_places: Arc<Semaphore>,
    /// The run that goes on or is being begun.
    run: Mutex<Option<CurrentRun>>,
    /// What its health checks said.
    pub(crate) health: Mutex<HealthLog>,
}

/// A run, from the first thought of its VM to the end of its shim.
#[derive(Debug)]
struct CurrentRun {
    vm: String,
    wishes: Arc<Wishes>,
}

/// What is asked of whoever watches over a run. A request that comes before anybody listens is kept, so
/// that this must not outlive the run.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// To end it by force.
    pub(crate) give_up: Notify,
    /// To end it if its process does not run yet; nothing once it does.
    pub(crate) break_off: Notify,
}

/// Where an attach goes.
#[derive(Debug)]
enum AttachPoint {
    Waiting(Vec<PendingAttach>),
    Live(ShimSocket),
}

/// What is known about a container at an instant.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) record: Arc<ContainerRecord>,
    /// It is no longer in the store.
    pub(crate) removed: bool,
}

impl Container {
    pub(crate) fn new(folder: PathBuf, record: ContainerRecord) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            folder,
            verb: Arc::default(),
            writing: Mutex::new(()),
            now: watch::Sender::new(Moment { record: Arc::new(record), removed: false }),
            streams: Mutex::new(AttachPoint::Waiting(Vec::new())),
            sessions: TaskTracker::new(),
            attach_places: Arc::new(Semaphore::new(MOST_ATTACHED)),
            run: Mutex::new(None),
            health: Mutex::default(),
        })
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Arc<ContainerRecord> {
        Arc::clone(&self.now.borrow().record)
    }

    /// Sees every later record.
    pub(crate) fn watch(&self) -> watch::Receiver<Moment> {
        self.now.subscribe()
    }

    /// It is no longer in the store.
    pub(crate) fn is_removed(&self) -> bool {
        self.now.borrow().removed
    }

    /// Where its scratch disk is.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.folder.join(&self.record().scratch)
    }

    /// Its data disks, in the order in which its guest finds them.
    pub(crate) fn data_disks(&self) -> Result<Vec<DataDisk>> {
        let record = self.record();
        let disk = |disk: &DiskRecord| {
            let name = disk.name.parse::<DiskName>()?;
            Ok(DataDisk { name, path: self.folder.join(&disk.file) })
        };
        record.disks.iter().map(disk).collect()
    }

    /// The files of all its disks, the scratch disk first.
    pub(crate) fn disk_files(&self) -> Vec<PathBuf> {
        let record = self.record();
        let files = record.disks.iter().map(|disk| &disk.file);
        [&record.scratch].into_iter().chain(files).map(|file| self.folder.join(file)).collect()
    }

    /// Where its output is kept.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Changes the record; durable on return, whether or not the caller still waits for it.
    pub(crate) async fn update(
        self: &Arc<Self>,
        change: impl FnOnce(&mut ContainerRecord) + Send + 'static,
    ) -> Result<Arc<ContainerRecord>> {
        let container = Arc::clone(self);
        blocking(move || {
            let _one = lock(&container.writing);
            let next = container.changed(change);
            container.save(&next)?;
            container.show(&next);
            Ok(next)
        })
        .await
    }

    /// Changes the record as [`Container::update`] does; where it cannot be saved, on a full disk,
    /// it is changed in memory all the same. For what has happened already, whatever the disk says.
    pub(crate) async fn update_regardless(
        self: &Arc<Self>,
        change: impl FnOnce(&mut ContainerRecord) + Send + 'static,
    ) -> Result<()> {
        let container = Arc::clone(self);
        blocking(move || {
            let _one = lock(&container.writing);
            let next = container.changed(change);
            let saved = container.save(&next);
            container.show(&next);
            saved
        })
        .await
    }

    fn changed(&self, change: impl FnOnce(&mut ContainerRecord)) -> Arc<ContainerRecord> {
        let mut next = ContainerRecord::clone(&self.record());
        change(&mut next);
        Arc::new(next)
    }

    fn save(&self, record: &ContainerRecord) -> Result<()> {
        durable::write_json(&config_path(&self.folder), record)
    }

    fn show(&self, record: &Arc<ContainerRecord>) {
        self.now.send_modify(|moment| moment.record = Arc::clone(record));
    }

    /// What is asked of this VM's run; the same from its beginning to its end.
    pub(crate) fn run_of(&self, vm: &str) -> Arc<Wishes> {
        let mut run = lock(&self.run);
        if let Some(current) = run.as_ref().filter(|current| current.vm == vm) {
            return Arc::clone(&current.wishes);
        }
        let wishes = Arc::<Wishes>::default();
        *run = Some(CurrentRun { vm: vm.to_owned(), wishes: Arc::clone(&wishes) });
        wishes
    }

    /// Asks for the forced end of this VM's run; nothing where that is over.
    pub(crate) fn give_up(&self, vm: &str) {
        self.wish(vm, |wishes| &wishes.give_up);
    }

    /// Asks for the end of this VM's run unless its process runs by then.
    pub(crate) fn break_off(&self, vm: &str) {
        self.wish(vm, |wishes| &wishes.break_off);
    }

    fn wish(&self, vm: &str, which: impl FnOnce(&Wishes) -> &Notify) {
        if let Some(current) = lock(&self.run).as_ref().filter(|current| current.vm == vm) {
            which(&current.wishes).notify_one();
        }
    }

    /// Returns when this VM's process runs, or the VM is no longer the container's.
    pub(crate) async fn has_left_start(&self, vm: &str) {
        let left = |moment: &Moment| {
            let state = &moment.record.state;
            moment.removed
                || !matches!(state, RunState::Starting { vm: starting } if starting == vm)
        };
        // The sender lives in `self`.
        let _ = self.watch().wait_for(left).await;
    }

    /// Forgets a run that is over, and what was asked of it.
    pub(crate) fn end_run(&self, vm: &str) {
        lock(&self.run).take_if(|current| current.vm == vm);
    }

    /// Returns when this VM is no longer the container's.
    pub(crate) async fn is_rid_of(&self, vm: &str) {
        let gone = |moment: &Moment| moment.removed || moment.record.vm() != Some(vm);
        // The sender lives in `self`.
        let _ = self.watch().wait_for(gone).await;
    }

    /// Tells everyone who waits that it is gone.
    pub(crate) fn set_removed(&self) {
        self.now.send_modify(|moment| moment.removed = true);
        self.go_quiet();
    }

    /// The socket of its VM's shim; an error where it has no running process.
    pub(crate) fn running_shim(&self, places: &Places) -> Result<ShimSocket> {
        match &self.record().state {
            RunState::Running { vm, .. } => Ok(ShimSocket::in_folder(&places.vm_dir(vm))),
            _ => Err(self.not_running()),
        }
    }

    /// Docker's words for a verb that needs a running container.
    pub(crate) fn not_running(&self) -> Error {
        Error::conflict(format!("container {} is not running", self.id))
    }

    /// One more client's place; `None` where [`MOST_ATTACHED`] are attached, or wait to be.
    pub(crate) fn attach_place(&self) -> Option<OwnedSemaphorePermit> {
        if let AttachPoint::Waiting(waiting) = &mut *lock(&self.streams) {
            waiting.retain(|one| !one.pump.is_abandoned());
        }
        Arc::clone(&self.attach_places).try_acquire_owned().ok()
    }

    /// The shim to attach to; or keeps the attach for the next start.
    pub(crate) fn attach_or_wait(
        &self,
        attach: PendingAttach,
    ) -> std::result::Result<(), (ShimSocket, PendingAttach)> {
        match &mut *lock(&self.streams) {
            AttachPoint::Live(shim) => Err((shim.clone(), attach)),
            AttachPoint::Waiting(waiting) => {
                waiting.push(attach);
                Ok(())
            }
        }
    }

    /// From now on attaches go to this shim; returns those that waited for it.
    pub(crate) fn go_live(&self, shim: &ShimSocket) -> Vec<PendingAttach> {
        match std::mem::replace(&mut *lock(&self.streams), AttachPoint::Live(shim.clone())) {
            AttachPoint::Waiting(waiting) => waiting,
            AttachPoint::Live(_) => Vec::new(),
        }
    }

    /// Returns when every client has what the run wrote; each has so much time for it.
    pub(crate) async fn end_sessions(&self) {
        self.sessions.close();
        self.sessions.wait().await;
        self.sessions.reopen();
    }

    /// From now on attaches wait for the next start; the streams of those that waited in vain end.
    pub(crate) fn go_quiet(&self) {
        *lock(&self.streams) = AttachPoint::Waiting(Vec::new());
    }
}

/// A container's record file.
pub(crate) fn config_path(folder: &Path) -> PathBuf {
    folder.join("config.json")
}

/// The last run of a container whose process never started.
pub(crate) fn failed_start(exit_code: i32, error: String) -> LastRun {
    LastRun {
        exit_code,
        error: Some(error),
        oom_killed: false,
        started_at: None,
        finished_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::sample;
    use std::time::Duration;
    use tokio::time::timeout;

    async fn is_asked(wishes: &Wishes) -> bool {
        timeout(Duration::from_millis(20), wishes.give_up.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn a_request_to_end_a_run_by_force_is_kept_for_that_run_only() {
        let folder = tempfile::tempdir().unwrap();
        let container = Container::new(folder.path().to_owned(), sample());
        let first = container.run_of("one");
        container.give_up("one");
        assert!(is_asked(&container.run_of("one")).await);
        container.give_up("one");
        container.end_run("one");

        let second = container.run_of("two");
        container.give_up("one");
        container.end_run("one");
        assert!(!is_asked(&second).await);
        container.give_up("two");
        assert!(is_asked(&second).await);
        drop(first);
        // Whose process runs by then is not meant.
        container.break_off("two");
        assert!(!is_asked(&second).await);
    }

    #[tokio::test]
    async fn what_cannot_be_saved_is_shown_only_where_it_has_happened() {
        let root = tempfile::tempdir().unwrap();
        let container = Container::new(root.path().join("missing"), sample());
        assert!(container.update(|record| record.ended_runs = 1).await.is_err());
        assert_eq!(container.record().ended_runs, 0);
        assert!(container.update_regardless(|record| record.ended_runs = 1).await.is_err());
        assert_eq!(container.record().ended_runs, 1);
    }

    #[tokio::test]
    async fn a_vm_is_gone_when_the_record_names_another_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let container = Container::new(folder.path().to_owned(), sample());
        container.is_rid_of("one").await;
        let starting = RunState::Starting { vm: "one".into() };
        container.update(|record| record.state = starting).await.unwrap();
        let short = Duration::from_millis(20);
        assert!(timeout(short, container.is_rid_of("one")).await.is_err());
        container.update(|record| record.state = RunState::Exited).await.unwrap();
        container.is_rid_of("one").await;
    }
}
