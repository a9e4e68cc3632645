//! Importing a disk: a file of somebody's, of whatever format, becomes a layer and an image.
//!
//! ```text
//!   begin ── key and name are free ──► journal/<guid>/
//!   fill  ── VHDX: copied ── VHD, raw: converted ── OVA, box: unpacked first ──►  …/<file>.vhdx
//!         └─ qcow2, VMDK, VDI: vetted, for another program to convert ─────────►  …/converted/
//!   publish ── checked, log replayed, linked to its parent ──► images/<file>.vhdx, an image
//! ```
//!
//! The file that is given is only read. A VHDX keeps the GUID in its name as its key; one that is in
//! the tree already is refused, as is a name that is: an import never takes anything's place.

mod given;
mod unpack;

use crate::claims::{Claim, Wanted};
use crate::commit::MAX_DEPTH;
use crate::compose::{NewImage, compose};
use crate::conversion::{self, Conversion, Filled};
use crate::error::{During, Error, Result};
use crate::id::LayerGuid;
use crate::import::end;
use crate::index::{Index, Pin};
use crate::journal::{Prepared, Work};
use crate::name::Name;
use crate::recognise::{self, DiskFormat, Recognised};
use crate::state::{Intent, Kind, Role, Sidecar};
use crate::store::{ImageInfo, Store};
use crate::{copy, durable, layer_file, machine, names, parent, step, vet};
use ireko_disk::check::check;
use ireko_disk::{Access, Chain, Disk, FileStorage, Format, Lock, NewDisk, Watch, convert, vhd};
use ireko_oci::{MachineConfig, RunConfig};
use jiff::Timestamp;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is unpacked of an archive, in the work's folder.
const UNPACKED: &str = "unpacked";
/// Where another program writes, in the work's folder; it sees nothing else of ours.
const CONVERTED: &str = "converted";

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

/// A file that is being filled with what another holds; dropped, it is thrown away.
#[derive(Debug)]
pub(crate) struct Filling {
    source: PathBuf,
    what: Recognised,
    guid: LayerGuid,
    file: String,
    work: Work,
    /// The work is done, or left to the next start.
    settled: bool,
}

impl Filling {
    /// Records durably that the file is being made: `called` is what its base name begins with.
    pub(crate) fn begin(
        store: &Store,
        source: &Path,
        what: Recognised,
        guid: LayerGuid,
        called: &str,
    ) -> Result<Filling> {
        let file = names::disk_file(called, guid);
        let intent = Intent::Arrive { file: file.clone(), reference: None };
        let work = store.journal.begin(guid, &intent, Prepared::default())?;
        Ok(Filling { source: source.to_owned(), what, guid, file, work, settled: false })
    }

    /// Brings in what the source holds, as far as that can be done here.
    pub(crate) fn fill(&self, watch: &dyn Watch) -> Result<Filled> {
        match self.what {
            Recognised::Disk(format) => {
                // Held, so that none of our own programs writes to it meanwhile.
                let opening = || format!("open {}", self.source.display());
                let _held = FileStorage::open(&self.source, Lock::Read).during(opening)?;
                fill(self, &self.source, format, Origin::Given, watch)
            }
            Recognised::Packed(packing, compression) => {
                let to = self.work.path(UNPACKED);
                unpack::the_disk(&self.source, packing, compression, &to, watch)?;
                let what =
                    recognise::recognise(&to, None).map_err(|error| inside(packing, &error))?;
                match what {
                    Recognised::Disk(format) => fill(self, &to, format, Origin::Unpacked, watch),
                    other => Err(Error::bad_input(format!("the {packing} holds a {other}"))),
                }
            }
            other => Err(Error::bad_input(format!("a {other} is no disk"))),
        }
    }

    /// Returns the file, whole and checked.
    pub(crate) fn whole(&self) -> Result<PathBuf> {
        let leaf = self.work.path(&self.file);
        conversion::take_converted(&self.work.path(CONVERTED), &leaf)?;
        layer_file::make_sound(&leaf)?;
        Ok(leaf)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if !self.settled {
            end(&self.work);
        }
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

    /// Brings in what the disk holds, as far as that can be done here.
    ///
    /// Takes as long as it is large; `watch` is told how far it is, and stops it.
    pub fn fill_disk(&self, pending: &PendingDisk, watch: &dyn Watch) -> Result<Filled> {
        pending.filling.fill(watch)
    }

    /// Makes the disk an image, verified and durable, and returns it. A failure throws it away.
    ///
    /// `comment` is what is said about it.
    pub fn publish_disk(&self, mut pending: PendingDisk, comment: &str) -> Result<ImageInfo> {
        let _parent = self.make_ready(&pending, comment)?;
        let mut index = self.index();
        let PendingDisk { filling, name, .. } = &mut pending;
        check_free(&index, filling.guid, name)?;
        filling.settled = true;
        let landed = self.land(&mut index, &filling.work, &filling.file, Some(name));
        let landed = landed.and_then(|id| id.ok_or_else(|| Error::corrupt("the image is none")));
        match landed {
            Ok(id) => Ok(self.info(&index, index.image(&id)?)),
            Err(error) => {
                if let Err(second) = self.take_back(&mut index, &filling.work, &filling.file) {
                    tracing::warn!(error = %crate::error::chain(&second), "left to the next start");
                }
                Err(error)
            }
        }
    }

    /// Verifies the disk, links it to its parent and writes down what it is going to be.
    fn make_ready(&self, pending: &PendingDisk, comment: &str) -> Result<Option<Pin>> {
        let filling = &pending.filling;
        let leaf = filling.whole()?;
        let place = self.place_for(&leaf)?;
        let chain = self.link_to(&leaf, &place, names::sibling_locator)?;
        let config = compose(
            place.below.as_ref().map(|config| config.document()),
            place.kind,
            filling.guid,
            &NewImage {
                config: place.config(),
                machine: place.machine(&chain)?,
                generalized: false,
                name: Some(pending.name.clone()),
                comment: comment.to_owned(),
                author: String::new(),
                created_by: String::new(),
                created: Timestamp::now(),
            },
        )?;
        let sidecar = Sidecar {
            guid: filling.guid,
            kind: place.kind,
            name: pending.name.short(),
            chain: None,
            role: Role::Image(config),
            disks: Vec::new(),
            steps: 1,
        };
        let file = filling.file.clone();
        let intent = Intent::Arrive { file, reference: Some(pending.name.to_string()) };
        filling.work.complete(&intent, &sidecar)?;
        Ok(place.pin)
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

/// Whose file a disk is filled from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The user's.
    Given,
    /// Our own, in the work's folder.
    Unpacked,
}

fn fill(
    filling: &Filling,
    source: &Path,
    format: DiskFormat,
    origin: Origin,
    watch: &dyn Watch,
) -> Result<Filled> {
    let leaf = filling.work.path(&filling.file);
    match format {
        DiskFormat::Vhdx if origin == Origin::Unpacked => durable::rename(source, &leaf)?,
        DiskFormat::Vhdx => copy_unchanged(source, &leaf, watch)?,
        DiskFormat::Vhd => {
            check_vhd(source)?;
            convert_here(source, Format::Vhd, &leaf, watch)?;
        }
        DiskFormat::Raw => convert_here(source, Format::Raw, &leaf, watch)?,
        DiskFormat::Qcow2 | DiskFormat::Vmdk | DiskFormat::Vdi => {
            let virtual_size = vet::vet(source, format)?;
            let folder = filling.work.path(CONVERTED);
            return Ok(Filled::ToConvert(Conversion::plan(
                (source, format),
                (&folder, DiskFormat::Vhdx),
                virtual_size,
            )?));
        }
    }
    Ok(Filled::Whole)
}

/// Copies a file; one that changes meanwhile is refused.
fn copy_unchanged(source: &Path, to: &Path, watch: &dyn Watch) -> Result<()> {
    let look = || {
        let file = fs::metadata(source).during(|| format!("look at {}", source.display()))?;
        Ok::<_, Error>((file.len(), file.mtime(), file.mtime_nsec()))
    };
    let before = look()?;
    copy::copy_watched(source, to, watch)?;
    let after = look()?;
    match before == after {
        true => Ok(()),
        false => {
            Err(Error::conflict(format!("{} was written to while it was copied", source.display()))
                .hint("stop the virtual machine that uses it first"))
        }
    }
}

/// Refuses a VHD that is damaged or is only a part of a disk.
fn check_vhd(source: &Path) -> Result<()> {
    let looking = || format!("check {}", source.display());
    let report = check(source).during(looking)?;
    if let Some(finding) = report.findings.iter().find(|_| !report.is_sound()) {
        return Err(Error::bad_input(format!("the disk is damaged: {}", finding.message)).hint(
            "`ireko vhd check FILE` shows all that is wrong, `ireko vhd repair` cures what it can",
        ));
    }
    match vhd::info(source).during(looking)?.parent {
        None => Ok(()),
        Some(_) => Err(Error::bad_input(format!(
            "{} is a differencing VHD: its parent is another file",
            source.display()
        ))
        .hint("`ireko vhd flatten FILE WHOLE.vhdx` makes one file of both")),
    }
}

fn convert_here(source: &Path, format: Format, leaf: &Path, watch: &dyn Watch) -> Result<()> {
    let converting = || format!("convert {}", source.display());
    step::allocating().during(converting)?;
    let allocated = fs::metadata(source).during(converting)?.blocks().saturating_mul(512);
    copy::check_room(leaf, allocated)?;
    let disk = Chain::open_as(source, format, Access::ReadOnly).during(converting)?;
    let new = NewDisk::like(Format::Vhdx, disk.geometry());
    convert(&disk, leaf, &new, watch).during(converting)?;
    Ok(())
}

fn inside(packing: recognise::Packing, error: &Error) -> Error {
    let error_text = crate::error::chain(error);
    Error::bad_input(format!("the disk in the {packing} cannot be used: {error_text}"))
}
