//! Changing what a container is given, and what happens when it ends.

use crate::blocking::to_its_end;
use crate::create::check_resources;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::machine;
use crate::spec::{Resources, RestartPolicy};
use crate::state::RunState;

/// What is to be otherwise; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// What the VM is given from its next start on.
    pub resources: Resources,
    /// What happens when the process ends by itself, at once.
    pub restart: Option<RestartPolicy>,
}

impl Engine {
    /// Changes a container, durably: all that is asked for, or nothing.
    ///
    /// Errors where it runs and its VM would have to be another one, where the machine has less than
    /// what is asked for, and where a container that is removed at its end is to be started again.
    pub async fn update(&self, reference: &str, changes: Changes) -> Result<()> {
        let container = self.find(reference)?;
        check_resources(&changes.resources)?;
        let engine = self.clone();
        to_its_end(async move {
            let _verb = container.verb.lock().await;
            let record = container.record();
            let refused = |why: &str| {
                Error::conflict(format!("Cannot update container {}: {why}", record.id))
            };
            if container.is_removed() || record.state == RunState::Removing {
                return Err(Error::not_found(format!("No such container: {}", record.id)));
            }
            if changes.resources != Resources::default() && record.is_suspended() {
                return Err(refused(
                    "what was saved of it has the memory and the CPUs that it has",
                )
                .hint("start it and stop it first, or: ireko suspend --drop"));
            }
            if changes.resources != Resources::default() && record.vm().is_some() {
                return Err(refused("memory and CPUs of a virtual machine stay while it runs")
                    .hint("stop it first; a restart policy alone is taken at once"));
            }
            if changes.restart.is_some_and(|it| it != RestartPolicy::No) && record.spec.auto_remove
            {
                return Err(refused(
                    "Restart policy cannot be updated because AutoRemove is enabled for the \
                     container",
                ));
            }
            if record.process.is_machine() {
                machine::check_cpus(&record.spec.image, &changes.resources)?;
            }
            container
                .update(move |record| {
                    let own = &mut record.spec.resources;
                    own.memory = changes.resources.memory.or(own.memory);
                    own.cpu_millis = changes.resources.cpu_millis.or(own.cpu_millis);
                    record.spec.restart = changes.restart.unwrap_or(record.spec.restart);
                    // It is not waited for any more.
                    let is_over = record.spec.restart == RestartPolicy::No;
                    if record.state == RunState::Restarting && is_over {
                        record.state = RunState::Exited;
                    }
                })
                .await?;
            engine.emit(&container.record(), "update", &[]);
            Ok(())
        })
        .await
    }
}
