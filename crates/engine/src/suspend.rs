//! Suspending a whole operating system: its VM saved beside its disk, to go on at the next start.
//!
//! ```text
//!   Running ─ suspend ─► shim: state, vm.json ─► the run ends ─► Suspended ─ start ─► Running
//!                                                                    └─ drop ─► Exited
//! ```
//!
//! The shim decides, by `vm.json`: a container in whose folder it lies, and that does not run, is
//! suspended, whatever became of the daemon or the shim meanwhile. A start that fails leaves it so.

use crate::blocking::{blocking, to_its_end};
use crate::container::Container;
use crate::durable;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::state::{ContainerRecord, RunState};
use crate::wait::{WaitFor, Waiting};
use ireko_protocol::plan::{SUSPENDED, SUSPENDED_RECORD};
use ireko_protocol::shim::Request;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// Time for all the memory of a machine to reach a slow disk.
const SAVE: Duration = Duration::from_secs(1800);
/// Time for a VM that was saved to end.
const END: Duration = Duration::from_secs(60);

impl Engine {
    /// Suspends a running machine; durable on return.
    ///
    /// Errors where it is no whole operating system, does not run, is removed at its end, or cannot be
    /// saved; then it runs on.
    pub async fn suspend(&self, reference: &str) -> Result<()> {
        let container = self.find(reference)?;
        let engine = self.clone();
        to_its_end(async move {
            let _verb = container.verb.lock().await;
            let record = container.record();
            if !record.process.is_machine() {
                return Err(Error::bad_parameter(format!(
                    "container {} runs a process, not a whole operating system: pause it instead",
                    record.name
                )));
            }
            if record.spec.auto_remove {
                return Err(Error::conflict(format!(
                    "container {} is removed at its end (--rm): it cannot be suspended",
                    record.name
                )));
            }
            let shim = container.running_shim(engine.places())?;
            let what = || format!("suspend container {}", record.name);
            let waiting = Waiting::new(&container, WaitFor::NextExit);
            shim.ask(Request::Suspend, SAVE).await.map_err(|error| error.into_error(what))?;
            timeout(END, waiting.ending()).await.map_err(|_| {
                Error::internal(format!("{}: it is saved, but its VM does not end", what()))
            })?;
            engine.emit(&container.record(), "suspend", &[]);
            Ok(())
        })
        .await
    }

    /// Forgets what was saved of a suspended machine: its next start boots its disk.
    ///
    /// Errors where it is not suspended.
    pub async fn drop_suspended(&self, reference: &str) -> Result<()> {
        let container = self.find(reference)?;
        to_its_end(async move {
            let _verb = container.verb.lock().await;
            let record = container.record();
            if !record.is_suspended() {
                return Err(Error::conflict(format!("container {} is not suspended", record.name)));
            }
            let folder = container.folder.clone();
            blocking(move || forget(&folder)).await?;
            container.update(|record| record.state = RunState::Exited).await.map(drop)
        })
        .await
    }
}

/// Whether a VM is suspended in a container's folder.
pub(crate) fn is_suspended(folder: &Path) -> bool {
    folder.join(SUSPENDED).join(SUSPENDED_RECORD).exists()
}

/// Removes what was saved, also what never was whole.
pub(crate) fn forget(folder: &Path) -> Result<()> {
    let saved = folder.join(SUSPENDED);
    durable::remove_file(&saved.join(SUSPENDED_RECORD))?;
    match std::fs::remove_dir_all(&saved) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).attempt(|| format!("remove {}", saved.display()))
        }
        _ => Ok(()),
    }
}

/// Refuses what would change a suspended machine's disk.
pub(crate) fn check_disk_is_free(record: &ContainerRecord) -> Result<()> {
    match record.is_suspended() {
        false => Ok(()),
        true => Err(Error::conflict(format!(
            "container {} is suspended: its disk has to stay as it is until it goes on",
            record.name
        ))
        .hint("start it, or have what was saved forgotten: ireko suspend --drop")),
    }
}

impl Container {
    /// What it is when it does not run; `otherwise` where nothing was saved of it.
    pub(crate) fn rest(&self, otherwise: RunState) -> RunState {
        if is_suspended(&self.folder) { RunState::Suspended } else { otherwise }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::sample;

    #[test]
    fn a_container_at_rest_is_suspended_while_its_folder_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let container = Container::new(folder.path().to_owned(), sample());
        let saved = folder.path().join(SUSPENDED);
        std::fs::create_dir(&saved).unwrap();
        std::fs::write(saved.join("state"), "half").unwrap();
        assert_eq!(container.rest(RunState::Exited), RunState::Exited);
        std::fs::write(saved.join(SUSPENDED_RECORD), "{}").unwrap();
        assert_eq!(container.rest(RunState::Exited), RunState::Suspended);
        let record = ContainerRecord { state: RunState::Suspended, ..sample() };
        assert!(check_disk_is_free(&record).unwrap_err().to_string().contains("is suspended"));
        assert_eq!(record.status(), "exited", "docker's clients know no other word");
        forget(folder.path()).unwrap();
        forget(folder.path()).unwrap();
        assert_eq!(container.rest(RunState::Created), RunState::Created);
        check_disk_is_free(&sample()).unwrap();
    }
}
