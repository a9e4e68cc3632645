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
    /// What its disks take.
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
            self.all_containers().iter().map(|one| (one.record(), one.disk_files())).collect();
        containers.sort_by(|(a, _), (b, _)| b.created.cmp(&a.created).then(a.id.cmp(&b.id)));
        blocking(move || {
            let disks: Vec<_> = containers.iter().flat_map(|(_, disks)| disks.clone()).collect();
            let usage = store.usage(&disks)?;
            let mut each = usage.disks.iter();
            let containers = containers.into_iter().map(|(record, disks)| {
                let disk = each.by_ref().take(disks.len()).fold(DiskUsage::default(), add);
                ContainerUsage { record, disk }
            });
            let containers = containers.collect();
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

fn add(sum: DiskUsage, one: &DiskUsage) -> DiskUsage {
    DiskUsage {
        own_bytes: sum.own_bytes + one.own_bytes,
        layer_bytes: sum.layer_bytes + one.layer_bytes,
    }
}
