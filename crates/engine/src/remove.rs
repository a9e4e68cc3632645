//! Removing a container: its disk, its record, its name.

use crate::blocking::{blocking, to_its_end};
use crate::container::{Container, config_path};
use crate::durable;
use crate::engine::Engine;
use crate::error::{Attempt, Error, ErrorKind, Result};
use crate::start::Cause;
use crate::state::RunState;
use std::fs;
use std::path::Path;
use std::sync::Arc;

impl Engine {
    /// Removes a container; with `force` one that runs is killed first.
    ///
    /// Errors where it runs and `force` is not given.
    pub async fn remove(&self, reference: &str, force: bool) -> Result<()> {
        let container = self.find(reference)?;
        let engine = self.clone();
        to_its_end(async move {
            let record = container.record();
            let state = match record.state {
                RunState::Starting { .. } => "starting",
                _ => record.status(),
            };
            let at_rest = matches!(state, "created" | "exited");
            if !at_rest && !force {
                let cure = match state {
                    "paused" => {
                        "unpause and then stop the container before removing or force remove"
                    }
                    _ => "stop the container before removing or force remove",
                };
                return Err(Error::conflict(format!(
                    "cannot remove container \"/{}\": container is {state}: {cure}",
                    record.name
                )));
            }
            if force {
                engine.kill_to_the_end(&container).await?;
            }
            // The end of one with `--rm` removes it as well; whoever comes first does.
            let _verb = container.verb.lock().await;
            engine.remove_locked(&container).await
        })
        .await
    }

    /// Removes a container that does not run; the caller holds its verb lock. Fine where it is
    /// gone already.
    pub(crate) async fn remove_locked(&self, container: &Arc<Container>) -> Result<()> {
        if container.is_removed() {
            return Ok(());
        }
        if container.record().vm().is_some() {
            return Err(Error::conflict(format!(
                "cannot remove container \"/{}\": container is running: stop the container before \
                 removing or force remove",
                container.record().name
            )));
        }
        self.settle_commits(container).await;
        mark_removing(container).await?;
        let (folder, store) = (container.folder.clone(), Arc::clone(&self.store));
        blocking(move || {
            remove_folder(&folder)?;
            store.collect();
            Ok(())
        })
        .await?;
        self.fold_soon();
        self.unregister(container);
        self.execs.forget(&container.id);
        self.emit(&container.record(), "destroy", &[]);
        container.set_removed();
        Ok(())
    }

    /// Stops a container where it runs, and starts it.
    pub async fn restart(
        &self,
        reference: &str,
        signal: Option<&str>,
        patience: Option<i64>,
    ) -> Result<()> {
        let container = self.find(reference)?;
        let signal = signal.map(crate::signal::parse_signal).transpose()?;
        let engine = self.clone();
        to_its_end(async move {
            if container.record().spec.auto_remove && container.record().vm().is_some() {
                return Err(Error::unsupported(
                    "Ireko does not restart a container that is removed at its end (--rm)",
                ));
            }
            let stopped = engine.stop_container(&container, signal, patience).await;
            match stopped {
                Err(error) if error.kind() != ErrorKind::NotModified => return Err(error),
                _ => {}
            }
            let _verb = container.verb.lock().await;
            engine.start_locked(&container, Cause::User).await?;
            engine.emit(&container.record(), "restart", &[]);
            Ok(())
        })
        .await
    }

    /// Gives a container another name.
    pub async fn rename(&self, reference: &str, name: &str) -> Result<()> {
        let container = self.find(reference)?;
        let name = crate::names::check_name(name)?.to_owned();
        let engine = self.clone();
        to_its_end(async move {
            let _verb = container.verb.lock().await;
            let old = container.record().name.clone();
            engine.reserve_name(&name, &container.id)?;
            let new = name.clone();
            if let Err(error) = container.update(move |record| record.name = new).await {
                engine.release_name(&name);
                return Err(error);
            }
            engine.release_name(&old);
            if let Err(error) = engine.rewire(&container).await {
                tracing::error!(error = error.chain(), id = container.id, "known by its old name");
            }
            engine.emit(&container.record(), "rename", &[("oldName", format!("/{old}"))]);
            Ok(())
        })
        .await
    }
}

/// Records that a container is on its way out.
///
/// On a full disk its record goes instead, so that the removal can free some space: a folder
/// without one means the same.
async fn mark_removing(container: &Arc<Container>) -> Result<()> {
    if container.record().state == RunState::Removing {
        return Ok(());
    }
    match container.update(|record| record.state = RunState::Removing).await {
        Err(error) if error.is_full_disk() => {
            tracing::warn!(error = error.chain(), id = container.id, "removed without a record");
            let folder = container.folder.clone();
            blocking(move || {
                durable::remove_file(&config_path(&folder))?;
                durable::sync_folder(&folder)
            })
            .await
        }
        result => result.map(drop),
    }
}

/// Removes a container's folder, durably.
///
/// Where this is cut off, recovery finds a folder whose record says `Removing`, or that has no
/// record any more, and finishes.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).attempt(|| format!("remove {}", folder.display()));
        }
        _ => {}
    }
    folder.parent().map_or(Ok(()), durable::sync_folder)
}
