//! Importing a disk: a file of somebody's, of whatever format, becomes a layer and an image.
//!
//! ```text
//!   begin ── key and name are free ──► journal/<guid>/
//!   fill  ── VHDX: copied ── VHD, raw: converted ── OVA, box: unpacked first ──►  …/<file>.vhdx
//!         └─ qcow2, VMDK, VDI: vetted, for another program to convert ─────────►  …/converted-0/
//!   publish ── checked, log replayed, linked to its parent ──► images/<file>.vhdx, an image
//! ```
//!
//! An OVA or a box may hold several disks: the one that the machine boots from is the image's, the others
//! are its data disks, each filled and checked as the first; they come together or not at all.
//!
//! The file that is given is only read. A VHDX keeps the GUID in its name as its key; one that is in
//! the tree already is refused, as is a name that is: an import never takes anything's place.

pub(crate) mod described;
mod filling;
mod given;
mod unpack;

pub(crate) use filling::Filling;

use crate::arrive::{Arriving, complete};
use crate::claims::{Claim, Wanted};
use crate::commit::MAX_DEPTH;
use crate::compose::{NewImage, compose};
use crate::conversion::Filled;
use crate::error::{Error, Result};
use crate::id::LayerGuid;
use crate::index::{Index, Layer, Pin};
use crate::name::Name;
use crate::recognise::Recognised;
use crate::state::{DataLayer, Kind, Role, Sidecar};
use crate::store::{ImageInfo, Store};
use crate::{layer_file, machine, names, parent};
use ireko_disk::Watch;
use ireko_oci::{MachineConfig, RunConfig};
use jiff::Timestamp;
use std::path::{Path, PathBuf};

/// A disk on its way into the tree. Hand it to [`Store::publish_disk`]; dropped, it is thrown away.
#[derive(Debug)]
#[must_use]
pub struct PendingDisk {
    filling: Filling,
    name: Name,
    _claims: [Claim; 2],
}

impl PendingDisk {
    /// Returns the name that the image is going to have.
    pub fn name(&self) -> &Name {
        &self.name
    }
}

impl Store {
    /// Begins to import the file at `source`, which is `what`: a disk, or a packed one.
    ///
    /// Its name is `name`, or that of the file without GUID and suffix. Fails with
    /// [`crate::ErrorKind::Conflict`] where its key or its name is in use, and says whose.
    pub fn begin_disk(
        &self,
        source: &Path,
        what: Recognised,
        name: Option<&str>,
    ) -> Result<PendingDisk> {
        let given = given::of(source, what, name)?;
        let (guid, name) = (given.key.unwrap_or_else(LayerGuid::random), given.name);
        let claims = [
            self.claims.take(Wanted::Key(guid))?,
            self.claims.take(Wanted::Name(name.reference().to_string()))?,
        ];
        let index = self.index();
        check_free(&index, guid, &name)?;
        drop(index);
        let filling = Filling::begin(self, source, what, guid, &name.short())?;
        Ok(PendingDisk { filling, name, _claims: claims })
    }

    /// Brings in what the disk holds, as far as that can be done here. After another program has done its
    /// part, call it again: there may be more disks.
    ///
    /// Takes as long as it is large; `watch` is told how far it is, and stops it.
    pub fn fill_disk(&self, pending: &mut PendingDisk, watch: &dyn Watch) -> Result<Filled> {
        pending.filling.fill(watch)
    }

    /// Makes the disk an image, with the others as its data disks, verified and durable, and returns it. A
    /// failure throws all away.
    ///
    /// `comment` is what is said about it.
    pub fn publish_disk(&self, mut pending: PendingDisk, comment: &str) -> Result<ImageInfo> {
        let (arriving, _pins) = self.make_ready(&pending, comment)?;
        let mut index = self.index();
        let PendingDisk { filling, name, .. } = &mut pending;
        check_free(&index, filling.guid, name)?;
        complete(&filling.work, &arriving)?;
        filling.settled = true;
        self.bring_all(&mut index, &filling.work, &arriving)?;
        let image = index.layer(filling.guid).and_then(Layer::as_image);
        let image = image.ok_or_else(|| Error::corrupt("the image is none"))?;
        Ok(self.info(&index, image))
    }

    /// Verifies the disks, links them to their parents and says what they are going to be.
    fn make_ready(
        &self,
        pending: &PendingDisk,
        comment: &str,
    ) -> Result<(Vec<Arriving>, Vec<Pin>)> {
        let mut disks = pending.filling.whole()?.into_iter();
        let Some((own, leaf)) = disks.next() else {
            return Err(Error::conflict("the disk was not brought in"));
        };
        let (mut arriving, mut pins, mut layers) = (Vec::new(), Vec::new(), Vec::new());
        for (disk, leaf) in disks {
            let place = self.place_for(&leaf)?;
            self.link_to(&leaf, &place, names::sibling_locator)?;
            pins.extend(place.pin);
            let sidecar = Sidecar {
                guid: disk.guid,
                kind: Kind::Machine,
                name: disk.called.clone(),
                chain: None,
                role: Role::Layer(None),
                disks: Vec::new(),
                steps: 1,
            };
            arriving.push(Arriving::new(disk.file.clone(), Vec::new(), sidecar));
            layers.extend(disk.name.clone().map(|name| DataLayer { name, guid: disk.guid }));
        }
        let place = self.place_for(&leaf)?;
        let chain = self.link_to(&leaf, &place, names::sibling_locator)?;
        let config = compose(
            place.below.as_ref().map(|config| config.document()),
            place.kind,
            own.guid,
            &NewImage {
                config: place.config(),
                machine: place.machine(&chain)?,
                generalized: false,
                container: None,
                name: Some(pending.name.clone()),
                comment: comment.to_owned(),
                author: String::new(),
                created_by: String::new(),
                created: Timestamp::now(),
            },
        )?;
        let sidecar = Sidecar {
            guid: own.guid,
            kind: place.kind,
            name: pending.name.short(),
            chain: None,
            role: Role::Image(config),
            disks: layers,
            steps: 1,
        };
        pins.extend(place.pin);
        arriving.push(Arriving::new(own.file.clone(), vec![pending.name.to_string()], sidecar));
        Ok((arriving, pins))
    }

    /// Links a data disk of a container at `leaf` to its parent, if it has one, which is kept from being
    /// swept while the pin lives.
    pub(crate) fn link_data_disk(&self, leaf: &Path) -> Result<Option<Pin>> {
        let place = self.place_for(leaf)?;
        let images = self.places.images_name();
        self.link_to(leaf, &place, |below| names::scratch_locator(images, below))?;
        Ok(place.pin)
    }

    /// Links a disk to what it stands on and returns its files, verified, leaf first.
    fn link_to(
        &self,
        leaf: &Path,
        place: &Place,
        locator: impl Fn(&str) -> String,
    ) -> Result<Vec<PathBuf>> {
        if let Some(below) = &place.parent {
            layer_file::link(leaf, &self.image_path(below), &locator(below))?;
        }
        let chain = self.chain(leaf)?;
        layer_file::verify(&chain).map_err(|error| {
            error.hint("the file is damaged, or was made over another version of its parent")
        })?;
        Ok(chain)
    }

    /// Finds where in the tree the disk at `leaf` belongs, and keeps that from being swept.
    fn place_for(&self, leaf: &Path) -> Result<Place> {
        let mut index = self.index();
        let Some(parent) = parent::in_tree(&index, leaf)? else { return Ok(Place::base()) };
        let (guid, kind, file) = (parent.sidecar.guid, parent.sidecar.kind, parent.file.clone());
        let lineage = index.lineage(&file)?;
        if lineage.len() >= MAX_DEPTH {
            return Err(Error::conflict(format!(
                "{file} already stands on {} layers; no more than {MAX_DEPTH} can be stacked",
                lineage.len() - 1
            )));
        }
        let below = lineage.iter().find_map(|layer| layer.sidecar.config()).cloned();
        Ok(Place { kind, below, parent: Some(file), pin: Some(index.pin(guid)) })
    }
}

/// Where a disk belongs in the tree.
struct Place {
    kind: Kind,
    /// The parent's file.
    parent: Option<String>,
    /// The nearest configuration below.
    below: Option<ireko_oci::ImageConfig>,
    pin: Option<Pin>,
}

impl Place {
    /// A disk without parent. What runs on it nobody knows.
    fn base() -> Place {
        Place { kind: Kind::Machine, parent: None, below: None, pin: None }
    }

    /// What boots it, where that is not said below it already.
    fn machine(&self, chain: &[PathBuf]) -> Result<Option<MachineConfig>> {
        let said = self.below.as_ref().is_some_and(|below| below.document().machine.is_some());
        match (self.kind, said) {
            (Kind::Machine, false) => Ok(Some(machine::guess(chain)?)),
            _ => Ok(None),
        }
    }

    fn config(&self) -> RunConfig {
        self.below.as_ref().map(|below| below.document().config.clone()).unwrap_or_default()
    }
}

/// Refuses a key or a name that is in use.
fn check_free(index: &Index, guid: LayerGuid, name: &Name) -> Result<()> {
    if let Some(owner) = index.layer(guid) {
        let owned_by = match owner.as_image() {
            Some(image) => format!("the image {}", index.label(&image.id)),
            None => format!("a layer that is not an image any more, {}", owner.file),
        };
        return Err(Error::conflict(format!(
            "the GUID {guid} is in the tree already: it is {owned_by}"
        ))
        .hint("to have the same disk twice, give the file a name without a GUID"));
    }
    let damaged = index
        .damaged
        .keys()
        .find(|file| names::parse_disk_file(file).is_some_and(|(_, other)| other == guid));
    if let Some(file) = damaged {
        return Err(Error::conflict(format!("the GUID {guid} is that of images/{file}")));
    }
    match index.tags().get_key_value(name) {
        Some((taken, _)) => Err(Error::conflict(format!(
            "the name {} is in use; an import never takes an image's name away",
            taken.familiar()
        ))
        .hint("choose another: ireko image import FILE NAME")),
        None => Ok(()),
    }
}
