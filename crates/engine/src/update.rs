//! Changing what a container is given, and what happens when it ends.
//!
//! A VM that runs has the memory and the CPUs that it was made with; up to there the guest's own limits
//! keep the container to what it is to have.

use crate::blocking::to_its_end;
use crate::create::check_resources;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::machine;
use crate::shim_client::GUEST;
use crate::spec::{Resources, RestartPolicy};
use crate::state::{ContainerRecord, RunState};
use ireko_protocol::shim::Request;
use std::collections::BTreeMap;

/// What is to be otherwise; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// What the container may use; `u64::MAX` processes are no limit of them.
    pub resources: Resources,
    /// What [`crate::ContainerSpec::noted`] shows in addition.
    pub noted: BTreeMap<String, serde_json::Value>,
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
            let resources = changed(&record.spec.resources, &changes.resources);
            if changes.resources != Resources::default() && record.vm().is_some() {
                let limit = limit_of(&record, &resources).map_err(|why| {
                    refused(why).hint("stop it first; a restart policy alone is taken at once")
                })?;
                let shim = container.running_shim(engine.places())?;
                shim.ask(limit, GUEST).await.map_err(|error| {
                    error.into_error(|| format!("change the limits of container {}", record.id))
                })?;
            }
            container
                .update(move |record| {
                    record.spec.resources = resources;
                    record.spec.noted.extend(changes.noted);
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

/// What is asked for, over what there is.
fn changed(own: &Resources, wanted: &Resources) -> Resources {
    Resources {
        memory: wanted.memory.or(own.memory),
        cpu_millis: wanted.cpu_millis.or(own.cpu_millis),
        pids_max: match wanted.pids_max {
            Some(u64::MAX) => None,
            wanted => wanted.or(own.pids_max),
        },
    }
}

/// How a VM that runs is told; errors with the reason why it cannot be.
fn limit_of(
    record: &ContainerRecord,
    resources: &Resources,
) -> std::result::Result<Request, &'static str> {
    if record.process.is_machine() {
        return Err("memory and CPUs of a whole operating system stay while it runs");
    }
    let shares = resources.shares_in(&record.vm_resources);
    shares.map(Request::Limit).ok_or("its virtual machine has less memory or fewer CPUs than that")
}
