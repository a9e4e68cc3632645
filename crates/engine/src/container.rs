//! One container: its record, who may change it, and what is attached to it.
//!
//! The record on disk and the one in memory are the same: it is changed by [`Container::update`]
//! only, which returns when the change is durable. Verbs that must not meet (start, commit, rename,
//! remove) hold [`Container::verb`]; stop and kill do not, they only ask the VM.

use crate::blocking::{blocking, lock};
use crate::durable;
use crate::error::{Error, Result};
use crate::shim_client::ShimSocket;
use crate::state::{ContainerRecord, LastRun, RunState};
use crate::streams::Pump;
use ireko_protocol::places::Places;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

/// A client that attached before there was a VM.
#[derive(Debug)]
pub(crate) struct PendingAttach {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) pump: Pump,
}

/// One container of the store.
#[derive(Debug)]
pub(crate) struct Container {
    /// 64 lower-case hex digits.
    pub(crate) id: String,
    /// `<root>/containers/<id>`.
    pub(crate) folder: PathBuf,
    /// Held by a verb that must not meet another.
    pub(crate) verb: tokio::sync::Mutex<()>,
    /// One writer of `config.json` at a time.
    writing: Mutex<()>,
    now: watch::Sender<Moment>,
    /// Where an attach goes: to the shim, or to those who wait for one.
    streams: Mutex<AttachPoint>,
    /// Clients whose streams are joined to the shim's.
    pub(crate) sessions: TaskTracker,
    /// Asks the monitor to kill a shim that does not end by itself.
    pub(crate) give_up: Notify,
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
            verb: tokio::sync::Mutex::new(()),
            writing: Mutex::new(()),
            now: watch::Sender::new(Moment { record: Arc::new(record), removed: false }),
            streams: Mutex::new(AttachPoint::Waiting(Vec::new())),
            sessions: TaskTracker::new(),
            give_up: Notify::new(),
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
            let mut next = ContainerRecord::clone(&container.record());
            change(&mut next);
            durable::write_json(&config_path(&container.folder), &next)?;
            let next = Arc::new(next);
            container.now.send_modify(|moment| moment.record = Arc::clone(&next));
            Ok(next)
        })
        .await
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

    /// The shim to attach to; or keeps the attach for the next start.
    pub(crate) fn attach_or_wait(
        &self,
        attach: PendingAttach,
    ) -> std::result::Result<(), (ShimSocket, PendingAttach)> {
        match &mut *lock(&self.streams) {
            AttachPoint::Live(shim) => Err((shim.clone(), attach)),
            AttachPoint::Waiting(waiting) => {
                waiting.retain(|one| !one.pump.is_abandoned());
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
    LastRun { exit_code, error: Some(error), started_at: None, finished_at: None }
}
