//! A container's data disks: what they are called, what is on them, how they are made.
//!
//! ```text
//!   the image's, in its order ─► children of its layers
//!   --disk SIZE               ─► blank
//!   --disk FILE               ─► copied by content before anything else is made
//! ```

use crate::blocking::blocking;
use crate::convert::convert;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::progress::Watcher;
use crate::spec::{DiskContent, DiskSpec};
use crate::state::DiskRecord;
use crate::store::oci::Hardware;
use crate::store::{ImageInfo, Store};
use ireko_images::{DataDisk, DiskName, Filled, GivenFormat, PendingDataDisk, Recognised, Watch};
use std::path::Path;
use std::sync::Arc;

/// Most data disks of a VM whose disks are virtio devices.
const MOST: usize = 16;
/// Most data disks on a SATA controller: it has six ports, one of them for the root disk.
const MOST_ON_SATA: usize = 5;

/// A disk that is to be made, its content at hand.
#[derive(Debug)]
pub(crate) struct NewDisk {
    name: DiskName,
    content: NewContent,
}

#[derive(Debug)]
enum NewContent {
    Blank(u64),
    Filled(PendingDataDisk),
}

impl Engine {
    /// Names the disks that a container is to have beside the image's, and copies the files among them.
    /// Ends when the watcher's other end is dropped.
    pub(crate) async fn fill_disks(
        &self,
        image: &ImageInfo,
        disks: &[DiskSpec],
        hardware: Option<Hardware>,
        watcher: Watcher,
    ) -> Result<Vec<NewDisk>> {
        let names = names(image, disks)?;
        let most = if hardware == Some(Hardware::Compatible) { MOST_ON_SATA } else { MOST };
        if image.disks.len() + disks.len() > most {
            return Err(Error::bad_parameter(format!(
                "{} data disks: this machine has room for {most}",
                image.disks.len() + disks.len()
            )));
        }
        let (watcher, mut filled) = (Arc::new(watcher), Vec::new());
        for (name, disk) in names.into_iter().zip(disks) {
            let content = match &disk.content {
                DiskContent::Blank(bytes) => NewContent::Blank(*bytes),
                DiskContent::File(file) => {
                    NewContent::Filled(self.fill_disk(file, &watcher).await?)
                }
            };
            filled.push(NewDisk { name, content });
        }
        Ok(filled)
    }

    async fn fill_disk(&self, file: &Path, watcher: &Arc<Watcher>) -> Result<PendingDataDisk> {
        if !file.is_absolute() {
            return Err(Error::bad_parameter(format!(
                "{} is not an absolute path",
                file.display()
            )));
        }
        let (store, file, watching) =
            (Arc::clone(&self.store), file.to_owned(), Arc::clone(watcher));
        let (pending, filled) = blocking(move || {
            let what = recognise(&file)?;
            let mut pending = store.begin_data_disk(&file, what)?;
            let filled = store.fill_data_disk(&mut pending, &*watching)?;
            Ok((pending, filled))
        })
        .await?;
        let converted = match filled {
            Filled::ToConvert(conversion) => {
                convert(&self.settings.executable, &conversion, watcher).await
            }
            Filled::Whole if watcher.cancelled() => Err(Error::conflict("the copy was cancelled")),
            Filled::Whole => Ok(()),
        };
        // On a thread whatever happens: what was written may be much to remove.
        blocking(move || converted.map(|()| pending)).await
    }
}

/// What a file is. One without any mark of its own is a raw disk where its name says so.
fn recognise(file: &Path) -> Result<Recognised> {
    let is_raw = file
        .extension()
        .is_some_and(|it| ["img", "raw"].iter().any(|raw| it.eq_ignore_ascii_case(raw)));
    let raw =
        || "raw".parse::<GivenFormat>().and_then(|raw| ireko_images::recognise(file, Some(raw)));
    let what = match ireko_images::recognise(file, None) {
        Err(_) if is_raw => raw()?,
        what => what?,
    };
    match what {
        Recognised::Disk(_) | Recognised::Packed(..) => Ok(what),
        other => Err(Error::bad_parameter(format!("{} is no disk but a {other}", file.display()))),
    }
}

/// What the further disks are called.
fn names(image: &ImageInfo, disks: &[DiskSpec]) -> Result<Vec<DiskName>> {
    let mut taken: Vec<DiskName> = image.disks.iter().map(|disk| disk.name.clone()).collect();
    let of_image = taken.len();
    for disk in disks.iter().filter_map(|disk| disk.name.as_deref()) {
        let name: DiskName = disk.parse()?;
        if let Some(at) = taken.iter().position(|other| other.is_same(&name)) {
            let whose = if at < of_image { "the image has one" } else { "it is named twice" };
            return Err(Error::bad_parameter(format!("a disk cannot be called {name}: {whose}")));
        }
        taken.push(name);
    }
    let mut given = taken[of_image..].iter().cloned();
    let mut number = 0_u32;
    disks
        .iter()
        .map(|disk| match (disk.name.is_some(), given.len()) {
            (true, 1..) => Ok(given.next()),
            _ => loop {
                number += 1;
                let name: DiskName = format!("disk{number}").parse()?;
                if taken.iter().all(|other| !other.is_same(&name)) {
                    break Ok(Some(name));
                }
            },
        })
        .filter_map(Result::transpose)
        .collect()
}

/// Makes the disks in a container's folder: the image's, then those that are new.
pub(crate) fn make(
    store: &Store,
    image: &ImageInfo,
    folder: &Path,
    new: Vec<NewDisk>,
) -> Result<Vec<DiskRecord>> {
    let mut disks = store.create_data_disks(&image.id, folder)?;
    for NewDisk { name, content } in new {
        disks.push(match content {
            NewContent::Blank(bytes) => store.create_blank_disk(&image.id, folder, &name, bytes)?,
            NewContent::Filled(pending) => {
                store.place_data_disk(pending, &image.id, folder, &name)?
            }
        });
    }
    disks.into_iter().map(record).collect()
}

fn record(disk: DataDisk) -> Result<DiskRecord> {
    let file = disk.path.file_name().and_then(|name| name.to_str());
    let file = file
        .ok_or_else(|| Error::internal(format!("{} has no readable name", disk.path.display())))?;
    Ok(DiskRecord { name: disk.name.to_string(), file: file.to_owned() })
}
