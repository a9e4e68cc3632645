//! What images and containers take on the host, and what nothing needs.

use crate::blocking::{blocking, to_its_end};
use crate::engine::Engine;
use crate::error::Result;
use crate::state::ContainerRecord;
use ireko_images::{DiskUsage, Garbage, Usage};
use std::sync::Arc;

/// What a container takes.
#[derive(Clone, Debug)]
pub struct ContainerUsage {
    /// The container.
    pub record: Arc<ContainerRecord>,
    /// What its disk takes.
    pub disk: DiskUsage,
}

impl ContainerUsage {
    /// Bytes that are free when it is removed; none while it runs.
    pub fn reclaimable_bytes(&self) -> u64 {
        match self.record.vm() {
            Some(_) => 0,
            None => self.disk.own_bytes + self.disk.layer_bytes,
        }
    }
}

impl Engine {
    /// What images take, and containers, newest first.
    pub async fn usage(&self) -> Result<(Usage, Vec<ContainerUsage>)> {
        let store = Arc::clone(&self.store);
        let mut containers: Vec<_> =
            self.all_containers().iter().map(|one| (one.record(), one.scratch())).collect();
        containers.sort_by(|(a, _), (b, _)| b.created.cmp(&a.created).then(a.id.cmp(&b.id)));
        blocking(move || {
            let (records, disks): (Vec<_>, Vec<_>) = containers.into_iter().unzip();
            let usage = store.usage(&disks)?;
            let containers = records.into_iter().zip(&usage.disks);
            let containers = containers
                .map(|(record, disk)| ContainerUsage { record, disk: disk.clone() })
                .collect();
            Ok((usage, containers))
        })
        .await
    }

    /// The files that nothing needs.
    pub async fn garbage(&self) -> Result<Vec<Garbage>> {
        let store = Arc::clone(&self.store);
        blocking(move || Ok(store.garbage()?)).await
    }

    /// Removes the files that nothing needs, and returns them.
    pub async fn collect_garbage(&self) -> Result<Vec<Garbage>> {
        let store = Arc::clone(&self.store);
        to_its_end(blocking(move || Ok(store.collect_garbage()?))).await
    }
}
