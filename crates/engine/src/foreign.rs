//! Taking in containers that another program made: `Containers/NAME/NAME.vhdx`.
//!
//! The folder stays where it is and gets a `config.json`; from then on the container is like any
//! other. A folder that cannot be taken in is logged, left alone, and tried again at the next start.

use crate::blocking::blocking;
use crate::container::{Container, config_path};
use crate::durable;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::names::random_hex;
use crate::spec::ContainerSpec;
use crate::state::{ContainerRecord, DiskRecord, ProcessRecord, RunState, VERSION};
use crate::store::Store;
use ireko_images::FoundDisks;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Engine {
    /// Makes a container of each folder that has a disk and no record.
    pub(crate) async fn take_in(&self, folders: Vec<PathBuf>) -> Result<()> {
        for folder in folders {
            let (store, at) = (Arc::clone(&self.store), folder.clone());
            match blocking(move || record_of(&store, &at)).await {
                Ok(Some(record)) => self.take_in_one(folder, record).await?,
                Ok(None) => {
                    tracing::warn!(path = %folder.display(), "not a container: left alone");
                }
                Err(error) => {
                    let error = error.chain();
                    tracing::warn!(error, path = %folder.display(), "a container is left alone");
                }
            }
        }
        Ok(())
    }

    async fn take_in_one(&self, folder: PathBuf, record: ContainerRecord) -> Result<()> {
        if let Err(error) = self.reserve_name(&record.name, &record.id) {
            let error = error.chain();
            tracing::warn!(error, path = %folder.display(), "a container is left alone");
            return Ok(());
        }
        let container = Container::new(folder, record);
        let (saved, name) = (Arc::clone(&container), container.record().name.clone());
        blocking(move || durable::write_json(&config_path(&saved.folder), &*saved.record()))
            .await?;
        tracing::info!(name, id = container.id, "took in a container");
        self.register(&container);
        Ok(())
    }
}

/// What is known of a container from its folder; `None` where that holds no disk.
fn record_of(store: &Store, folder: &Path) -> Result<Option<ContainerRecord>> {
    let Some(FoundDisks { own: leaf, data }) = store.disks_in(folder)? else { return Ok(None) };
    let utf8 = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.map(str::to_owned)
            .ok_or_else(|| Error::internal(format!("{} has no readable name", path.display())))
    };
    let made = fs::metadata(&leaf)
        .and_then(|file| file.modified())
        .attempt(|| format!("look at {}", leaf.display()))?;
    let below = store.parent_of(&leaf)?.and_then(|parent| parent.image);
    let image = below.map(|id| store.find(&id.to_string())).transpose()?;
    let called = image.as_ref().map(|image| match image.names.first() {
        Some(name) => name.short(),
        None => image.id.to_string(),
    });
    let spec = ContainerSpec {
        image: called.unwrap_or_default(),
        keep_log: true,
        ..ContainerSpec::default()
    };
    Ok(Some(ContainerRecord {
        version: VERSION,
        id: random_hex(64),
        name: utf8(folder)?,
        created: Timestamp::try_from(made).unwrap_or_default(),
        spec,
        image_id: image.map(|image| image.id.hex()).unwrap_or_default(),
        scratch: utf8(&leaf)?,
        disks: data
            .iter()
            .map(|disk| Ok(DiskRecord { name: disk.name.to_string(), file: utf8(&disk.path)? }))
            .collect::<Result<_>>()?,
        process: ProcessRecord::of_machine(),
        machine: None,
        health: None,
        labels: BTreeMap::new(),
        state: RunState::Created,
        origin: None,
        last_run: None,
        ended_runs: 0,
        restart_count: 0,
        stopped_by_user: false,
        endpoints: Vec::new(),
        published: Vec::new(),
        vm_resources: Default::default(),
    }))
}
