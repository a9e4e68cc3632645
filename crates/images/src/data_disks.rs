//! Data disks: a container's disks beside the one it was made of an image with, and an image's.
//!
//! ```text
//!   images/      base ◄─ web               web_data ◄─┐       an image that has a data disk: two layers
//!                         ▲                           │
//!   containers/  web.vhdx ┘      web_data.vhdx ───────┘       its container: a child of each
//!                                web_logs.vhdx                a blank disk, or one that was imported
//! ```
//!
//! Each is a file in the container's folder and a chain of its own. A commit of all disks freezes them
//! into layers that the image's sidecar names; of the disk alone it leaves them out.

use crate::conversion::Filled;
use crate::error::{During, Error, Result};
use crate::id::{ImageId, LayerGuid};
use crate::import_disk::Filling;
use crate::index::{Index, Layer};
use crate::recognise::Recognised;
use crate::state::DataLayer;
use crate::store::Store;
use crate::{durable, layer_file, names, step};
use ireko_disk::Watch;
use ireko_disk::vhdx::{self, CreateOptions};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest name: what a guest can be shown as a disk's serial number.
const MAX_NAME: usize = 20;
/// Serial numbers that other disks of a VM have.
const RESERVED: [&str; 2] = ["root", "archive"];
/// Sizes of blank disks are multiples of this.
const GRANULE: u64 = 1 << 20;
/// The largest VHDX. Source: [MS-VHDX] 1.3.
const MAX_SIZE: u64 = 64 << 40;

/// What a data disk is called: 1 to 20 ASCII letters, digits, `.`, `_` or `-`, a letter or digit first.
/// Names that differ in case only are the same to a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskName(String);

impl DiskName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether both would be the same file on Windows.
    pub fn is_same(&self, other: &DiskName) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DiskName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_good = (1..=MAX_NAME).contains(&text.len())
            && text.bytes().all(allowed)
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && !RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text));
        match is_good {
            true => Ok(Self(text.to_owned())),
            false => Err(Error::bad_input(format!("a disk cannot be called {text:?}")).hint(
                "a name has 1 to 20 letters, digits, \".\", \"_\" or \"-\", a letter or digit first; \
                 \"root\" and \"archive\" are taken",
            )),
        }
    }
}

/// A data disk of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDisk {
    /// What it is called, in the guest by its serial number.
    pub name: DiskName,
    /// Its file, in the container's folder.
    pub path: PathBuf,
}

/// A data disk of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDisk {
    /// What containers know it by.
    pub name: DiskName,
    /// The key of its topmost file.
    pub guid: LayerGuid,
    /// Bytes a guest sees; 0 where its file cannot be read.
    pub virtual_size: u64,
}

/// A file that becomes a container's data disk. Hand it to [`Store::place_data_disk`]; dropped, it is
/// thrown away.
#[derive(Debug)]
#[must_use]
pub struct PendingDataDisk(Filling);

impl Store {
    /// Makes a child of each data disk of `image` in `folder`, durably and in O(1), and returns them in
    /// the image's order.
    pub fn create_data_disks(&self, image: &ImageId, folder: &Path) -> Result<Vec<DataDisk>> {
        let (parents, _pins) = {
            let mut index = self.index();
            let image = index.image(image)?;
            let (scratch, mut parents) = (image.layer.sidecar.name.clone(), Vec::new());
            for disk in &image.layer.sidecar.disks {
                let file = index.data_layer(disk)?.file.clone();
                index.lineage(&file)?;
                parents.push((self.data_disk(folder, &scratch, &disk.name)?, disk.guid, file));
            }
            let pins: Vec<_> = parents.iter().map(|(_, guid, _)| index.pin(*guid)).collect();
            (parents, pins)
        };
        for (disk, _, parent) in &parents {
            let locator = names::scratch_locator(self.places.images_name(), parent);
            layer_file::create_child(&disk.path, &self.image_path(parent), &locator)?;
        }
        Ok(parents.into_iter().map(|(disk, ..)| disk).collect())
    }

    /// Makes a blank dynamic disk for a container of `image` in `folder`, durably.
    ///
    /// `bytes` is rounded up to whole MiB; 1 MiB to 64 TiB.
    pub fn create_blank_disk(
        &self,
        image: &ImageId,
        folder: &Path,
        name: &DiskName,
        bytes: u64,
    ) -> Result<DataDisk> {
        if bytes == 0 || bytes > MAX_SIZE {
            return Err(Error::bad_input(format!("disk {name}: a disk has 1 MiB to 64 TiB")));
        }
        let disk = self.data_disk(folder, &self.slug_of(image)?, name)?;
        let making = || format!("create {}", disk.path.display());
        let aside = durable::aside(&disk.path)?;
        durable::discard(&aside);
        let make = || {
            step::allocating().during(making)?;
            vhdx::create(&aside, &CreateOptions::new(bytes.next_multiple_of(GRANULE)))
                .during(making)?;
            durable::rename(&aside, &disk.path)
        };
        make().inspect_err(|_| durable::discard(&aside))?;
        Ok(disk)
    }

    /// Begins to copy the disk in the file at `source`, which is `what`: a disk, or the only one in an
    /// archive.
    pub fn begin_data_disk(&self, source: &Path, what: Recognised) -> Result<PendingDataDisk> {
        let filling = Filling::begin(self, source, what, LayerGuid::random(), "disk")?;
        Ok(PendingDataDisk(filling.of_one()))
    }

    /// Brings in what the disk holds, as [`Store::fill_disk`] does.
    pub fn fill_data_disk(
        &self,
        pending: &mut PendingDataDisk,
        watch: &dyn Watch,
    ) -> Result<Filled> {
        pending.0.fill(watch)
    }

    /// Makes a disk that was filled a data disk of a container of `image` in `folder`, durably. A
    /// differencing disk stands on its parent in the tree, or is refused. A failure throws it away.
    pub fn place_data_disk(
        &self,
        pending: PendingDataDisk,
        image: &ImageId,
        folder: &Path,
        name: &DiskName,
    ) -> Result<DataDisk> {
        let disk = self.data_disk(folder, &self.slug_of(image)?, name)?;
        let Some((_, made)) = pending.0.whole()?.into_iter().next() else {
            return Err(Error::conflict(format!("disk {name} was not brought in")));
        };
        let _parent = self.link_data_disk(&made)?;
        durable::rename(&made, &disk.path)?;
        Ok(disk)
    }

    /// Returns the bytes that a container's disk takes on the host; 0 for one that is not there.
    pub fn allocated(&self, disk: &Path) -> u64 {
        layer_file::allocated(disk)
    }

    fn slug_of(&self, image: &ImageId) -> Result<String> {
        Ok(self.index().image(image)?.layer.sidecar.name.clone())
    }

    fn data_disk(&self, folder: &Path, scratch: &str, name: &DiskName) -> Result<DataDisk> {
        self.check_folder(folder)?;
        let file = format!("{}_{name}{}", names::slug(scratch), names::DISK_SUFFIX);
        Ok(DataDisk { name: name.clone(), path: folder.join(file) })
    }
}

impl Index {
    /// Finds the topmost layer of an image's data disk.
    pub(crate) fn data_layer(&self, disk: &DataLayer) -> Result<&Layer> {
        self.layer(disk.guid).ok_or_else(|| {
            Error::corrupt(format!(
                "the layer of data disk {} is not there: {}",
                disk.name, disk.guid
            ))
            .hint("put the file of that GUID and its .json back into images/")
        })
    }

    /// Lists the files of an image: of its own disk, then of each data disk; leaf first, each once.
    pub(crate) fn files_of_image<'a>(&'a self, image: &'a Layer) -> Result<Vec<&'a Layer>> {
        let mut files = self.lineage(&image.file)?;
        for disk in &image.sidecar.disks {
            for layer in self.lineage(&self.data_layer(disk)?.file)? {
                if !files.iter().any(|one| one.sidecar.guid == layer.sidecar.guid) {
                    files.push(layer);
                }
            }
        }
        Ok(files)
    }

    /// Lists the files of an image and of every image below it, data disks too; each once.
    pub(crate) fn files_of_tree<'a>(&'a self, image: &'a Layer) -> Result<Vec<&'a Layer>> {
        let (mut files, mut pending) = (Vec::<&Layer>::new(), vec![image]);
        while let Some(top) = pending.pop() {
            for layer in self.lineage(&top.file)? {
                if files.iter().any(|one| one.sidecar.guid == layer.sidecar.guid) {
                    break;
                }
                files.push(layer);
                for disk in &layer.sidecar.disks {
                    pending.push(self.data_layer(disk)?);
                }
            }
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_guests_and_windows_can_show() {
        for good in ["data", "d", "Disk-1", "a.b_c", "12345678901234567890"] {
            assert_eq!(good.parse::<DiskName>().unwrap().as_str(), good);
        }
        for bad in
            ["", "root", "ROOT", "archive", ".x", "-x", "a/b", "日本", "a b", &"x".repeat(21)]
        {
            assert!(bad.parse::<DiskName>().is_err(), "{bad:?}");
        }
    }
}
