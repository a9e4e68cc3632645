//! What a new daemon does with what a former one left.
//!
//! ```text
//!   record says     its shim      exit.json    then
//!   Starting        runs          –            Running where its process does, else put away
//!   Running         runs          –            taken over
//!   Starting,       is gone       there        exited as it says
//!   Running         is gone       missing      exited 255, the VM was lost; or suspended, where that
//!                                              was done
//!   Removing, none  –             –            removed
//! ```
//!
//! Then what the former daemon could not do any more: `--rm`, restart policies.

use crate::blocking::blocking;
use crate::container::{Container, config_path};
use crate::durable;
use crate::engine::Engine;
use crate::error::{Attempt, Result};
use crate::host_limits::{clear_up, group_in};
use crate::monitor::{Run, lost, timestamp};
use crate::remove::remove_folder;
use crate::save::sweep_skeletons;
use crate::shim_client::{AskError, QUICK, ShimSocket};
use crate::shim_process::OwnProcess;
use crate::spec::RestartPolicy;
use crate::spool::spool_folder;
use crate::start::remove_plan;
use crate::state::{ContainerRecord, RunState};
use ireko_cgroup::Group;
use ireko_protocol::plan::ExitRecord;
use ireko_protocol::shim::{Answer, Phase, Request, Status};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Time for a shim that was being started to put its VM away.
const CLEAR_UP: Duration = Duration::from_secs(30);

/// Time for a shim that a daemon started with its last breath to write `shim.json`.
const APPEAR: Duration = Duration::from_secs(5);

impl Engine {
    /// Reads every container and brings what is recorded and what is true together.
    pub(crate) async fn recover(&self) -> Result<()> {
        let folder = self.containers_folder();
        let spool = spool_folder(&self.places().root);
        let (store, root) = (Arc::clone(&self.store), self.places().root.clone());
        let found = blocking(move || {
            sweep_skeletons(&root, |chain| store.has_chain(chain));
            match fs::remove_dir_all(&spool) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(%error, "archives of a former daemon are left over");
                }
                _ => {}
            }
            read_all(&folder)
        })
        .await?;
        let mut recovered = Vec::new();
        for (folder, record) in found.containers {
            let container = Container::new(folder, record);
            self.reserve_name(&container.record().name, &container.id)?;
            self.register(&container);
            let (engine, container) = (self.clone(), Arc::clone(&container));
            recovered.push(tokio::spawn(async move {
                if let Err(error) = engine.recover_container(&container).await {
                    tracing::error!(error = error.chain(), id = container.id, "not recovered");
                }
            }));
        }
        for one in recovered {
            one.await.attempt(|| "recover a container".into())?;
        }
        self.take_in(found.foreign).await
    }

    async fn recover_container(&self, container: &Arc<Container>) -> Result<()> {
        let record = container.record();
        let Some(vm) = record.vm() else {
            return self.resume_at_rest(container, &record).await;
        };
        let socket = ShimSocket::in_folder(&self.places().vm_dir(vm));
        // A plan that is not read yet goes.
        let group = group_in(&container.folder);
        match find_shim(&container.folder, &record.state, APPEAR).await? {
            Some(process) => self.take_over(container, vm.to_owned(), socket, process, group).await,
            None => {
                clear_up(self.places().vm_dir(vm), group).await;
                let exit = durable::read_json::<ExitRecord>(&container.folder.join("exit.json"))?;
                self.run_ended(container, exit.unwrap_or_else(|| lost(vm))).await;
                Ok(())
            }
        }
    }

    async fn take_over(
        &self,
        container: &Arc<Container>,
        vm: String,
        socket: ShimSocket,
        mut process: OwnProcess,
        group: Option<Group>,
    ) -> Result<()> {
        let status = match socket.ask(Request::Status, QUICK).await {
            Ok(Answer::Status(status)) => status,
            // Its process is the container's, whatever release it is of.
            Err(AskError::Refused(refusal)) if container.record().is_running() => {
                tracing::warn!(%refusal, id = container.id, "a shim is left to itself");
                self.monitor(container, Run { vm, process, wait: None });
                return Ok(());
            }
            answer => {
                tracing::warn!(?answer, id = container.id, "a shim does not answer; it is killed");
                process.kill();
                self.monitor(container, Run { vm, process, wait: None });
                return Ok(());
            }
        };
        let Status { phase, vm_pid, started_at, .. } = status;
        if let (Phase::Booting | Phase::Ready, _) | (_, None) = (phase, started_at) {
            return self.put_away(container, &vm, socket, process, group).await;
        }
        let wait = socket.send(Request::Wait).await.ok();
        container.go_live(&socket);
        let running = RunState::Running {
            vm: vm.clone(),
            vm_pid,
            started_at: timestamp(started_at.unwrap_or_default()),
            paused: phase == Phase::Paused,
        };
        if container.record().state != running {
            container.update(move |record| record.state = running).await?;
        }
        tracing::info!(id = container.id, vm, "taken over");
        self.monitor(container, Run { vm, process, wait });
        Ok(())
    }

    /// Ends a VM whose process was never started; nobody waits for that start any more.
    async fn put_away(
        &self,
        container: &Arc<Container>,
        vm: &str,
        socket: ShimSocket,
        mut process: OwnProcess,
        group: Option<Group>,
    ) -> Result<()> {
        if let Err(error) = socket.ask(Request::PowerOff, QUICK).await {
            tracing::warn!(?error, id = container.id, "a shim does not answer");
        }
        process.end_within(CLEAR_UP).await;
        clear_up(self.places().vm_dir(vm), group).await;
        let resting = Arc::clone(container);
        container.update(move |record| record.state = resting.rest(record.at_rest())).await?;
        let record = container.record();
        self.resume_at_rest(container, &record).await
    }

    /// Makes up for what should have followed the end of a run, or of the daemon.
    async fn resume_at_rest(
        &self,
        container: &Arc<Container>,
        record: &ContainerRecord,
    ) -> Result<()> {
        if record.spec.auto_remove && record.state == RunState::Exited {
            let _verb = container.verb.lock().await;
            return self.remove_locked(container).await;
        }
        if record.state == RunState::Restarting || starts_with_the_daemon(record) {
            container.update(|record| record.state = RunState::Restarting).await?;
            self.restart_later(container, Duration::ZERO);
        }
        Ok(())
    }
}

/// The living shim of a container that had one; `None` where it has ended.
///
/// The shim of one that is starting may not have written `shim.json` yet. It is waited for; one
/// that comes later still finds no plan and ends.
async fn find_shim(
    folder: &Path,
    state: &RunState,
    patience: Duration,
) -> Result<Option<OwnProcess>> {
    let deadline = Instant::now() + patience;
    let is_starting = matches!(state, RunState::Starting { .. });
    while is_starting && !has_appeared(folder) && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    let folder = folder.to_owned();
    blocking(move || {
        if is_starting {
            remove_plan(&folder)?;
        }
        OwnProcess::adopt(&folder)
    })
    .await
}

/// A shim has left a trace since its plan was written.
fn has_appeared(folder: &Path) -> bool {
    folder.join("shim.json").exists() || folder.join("exit.json").exists()
}

fn starts_with_the_daemon(record: &ContainerRecord) -> bool {
    match (record.spec.restart, &record.state) {
        (RestartPolicy::Always, RunState::Exited) => true,
        (RestartPolicy::UnlessStopped, RunState::Exited) => !record.stopped_by_user,
        _ => false,
    }
}

/// What is in the folder of containers.
#[derive(Debug, Default, PartialEq)]
struct Found {
    /// Every container's folder and record.
    containers: Vec<(PathBuf, ContainerRecord)>,
    /// Folders without a record, and of another name than ours have.
    foreign: Vec<PathBuf>,
}

/// Reads every container's record; folders on their way out are removed.
fn read_all(folder: &Path) -> Result<Found> {
    let mut found = Found::default();
    let what = || format!("read {}", folder.display());
    for entry in fs::read_dir(folder).attempt(what)? {
        let path = entry.attempt(what)?.path();
        if !path.is_dir() {
            tracing::warn!(path = %path.display(), "not a container: left alone");
            continue;
        }
        let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(is_id);
        match durable::read_json::<ContainerRecord>(&config_path(&path)) {
            Ok(Some(record)) if record.state != RunState::Removing => {
                match record.check_version() {
                    Ok(record) => found.containers.push((path, record)),
                    Err(error) => tracing::error!(error = error.chain(), "left alone"),
                }
            }
            Ok(None) if !is_ours => found.foreign.push(path),
            // One that was being made, or removed.
            Ok(_) => remove_folder(&path)?,
            Err(error) => tracing::error!(error = error.chain(), "a container is left alone"),
        }
    }
    Ok(found)
}

/// Whether a folder is called as ours are.
pub(crate) fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::sample;

    #[test]
    fn what_was_being_made_or_removed_goes_and_what_is_not_ours_stays() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let whole = folder(&"ab".repeat(32));
        durable::write_json(&config_path(&whole), &sample()).unwrap();
        let half = folder(&"cd".repeat(32));
        let leaving = folder(&"ef".repeat(32));
        let removing = ContainerRecord { state: RunState::Removing, ..sample() };
        durable::write_json(&config_path(&leaving), &removing).unwrap();
        let newer = folder(&"01".repeat(32));
        let record = ContainerRecord { version: 99, ..sample() };
        durable::write_json(&config_path(&newer), &record).unwrap();
        let foreign = folder("notes");

        let found = read_all(root.path()).unwrap();
        assert_eq!(found.containers, [(whole.clone(), sample())]);
        assert_eq!(found.foreign, [foreign.as_path()]);
        let there = [&whole, &half, &leaving, &newer, &foreign].map(|path| path.exists());
        assert_eq!(there, [true, false, false, true, true]);
    }

    #[tokio::test]
    async fn a_starting_shim_is_waited_for_and_one_that_comes_too_late_has_no_plan() {
        let folder = tempfile::tempdir().unwrap();
        let plan = folder.path().join("plan.json");
        fs::write(&plan, "{}").unwrap();
        let starting = RunState::Starting { vm: "0123456789ab".into() };
        let (begun, short) = (Instant::now(), Duration::from_millis(60));
        assert!(find_shim(folder.path(), &starting, short).await.unwrap().is_none());
        assert!(begun.elapsed() >= short);
        assert!(!plan.exists());

        fs::write(folder.path().join("exit.json"), "{}").unwrap();
        let (begun, long) = (Instant::now(), Duration::from_secs(600));
        assert!(find_shim(folder.path(), &starting, long).await.unwrap().is_none());
        assert!(begun.elapsed() < long);
    }

    #[test]
    fn a_policy_reaches_across_daemons() {
        let check = |restart, state: RunState, by_user| {
            let mut record = ContainerRecord { state, stopped_by_user: by_user, ..sample() };
            record.spec.restart = restart;
            starts_with_the_daemon(&record)
        };
        assert!(check(RestartPolicy::Always, RunState::Exited, true));
        assert!(check(RestartPolicy::UnlessStopped, RunState::Exited, false));
        assert!(!check(RestartPolicy::UnlessStopped, RunState::Exited, true));
        assert!(!check(RestartPolicy::Always, RunState::Created, false));
        assert!(!check(RestartPolicy::No, RunState::Exited, false));
    }
}
