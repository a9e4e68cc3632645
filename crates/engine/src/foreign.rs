//! Taking in containers that another program made: `Containers/NAME/NAME.vhdx`.
//!
//! The folder stays where it is and gets a `config.json`; from then on the container is like any
//! other. A folder that cannot be taken in is logged, left alone, and tried again at the next start, and
//! after links were repaired.

use crate::blocking::blocking;
use crate::container::{Container, config_path};
use crate::durable;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::names::random_hex;
use crate::recovery::is_id;
use crate::spec::ContainerSpec;
use crate::state::{ContainerRecord, DiskRecord, ProcessRecord, RunState, VERSION};
use crate::store::Store;
use ireko_images::FoundDisks;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
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

    /// Makes containers of what was left alone when this daemon started, and can be one by now.
    pub(crate) async fn take_in_strangers(&self) -> Result<()> {
        let known: BTreeSet<_> =
            self.all_containers().iter().map(|container| container.folder.clone()).collect();
        let folder = self.containers_folder();
        let mut strangers = blocking(move || strangers_in(&folder)).await?;
        strangers.retain(|path| !known.contains(path));
        self.take_in(strangers).await
    }

    /// Finds the own disk of a container of this name that was left alone.
    pub(crate) async fn disk_of_stranger(&self, name: &str) -> Result<Option<PathBuf>> {
        let (store, folder) = (Arc::clone(&self.store), self.containers_folder());
        let name = name.to_owned();
        blocking(move || {
            let is_it = |path: &PathBuf| path.file_name().is_some_and(|it| it == name.as_str());
            let Some(folder) = strangers_in(&folder)?.into_iter().find(is_it) else {
                return Ok(None);
            };
            Ok(store.disks_in(&folder)?.map(|found| found.own))
        })
        .await
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

/// Lists the folders that are not called as ours are, and have no record.
fn strangers_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("read {}", folder.display());
    let mut strangers = Vec::new();
    for entry in fs::read_dir(folder).attempt(reading)? {
        let path = entry.attempt(reading)?.path();
        let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(is_id);
        if !is_ours && path.is_dir() && !config_path(&path).exists() {
            strangers.push(path);
        }
    }
    Ok(strangers)
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
