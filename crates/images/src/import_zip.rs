//! Importing a zip of layers, made by an export or by InvokeV-Container.
//!
//! ```text
//!   zip ─► each file here already?  ── yes ─► the same bytes? else refused
//!               │ no
//!               ▼
//!          work/<file> ─► parents found, by identity ─► chains opened ─► all land at once
//! ```
//!
//! Files keep their keys and bytes; one without a key in its name gets one. Parents are files of the zip or layers of the store; a locator is
//! rewritten only where the parent has another file name here. A file without a sidecar becomes a
//! machine image called as it is.

mod arrivals;
mod chains;

use crate::arrive::{Arriving, complete};
use crate::claims::{Claim, Wanted};
use crate::error::{During, Error, ErrorKind, Result};
use crate::export::go_on;
use crate::id::LayerGuid;
use crate::import::end;
use crate::index::{Index, Pin};
use crate::journal::{Prepared, Work};
use crate::name::Name;
use crate::state::Intent;
use crate::store::{ImageInfo, Store};
use crate::zip_reader::{ZipReader, check_plausible};
use crate::{durable, layer_file, names};
use arrivals::Arrivals;
use chains::{Member, base_first};
use ireko_disk::vhdx::Info;
use ireko_disk::{Watch, check};
use std::path::Path;

/// What the import of a zip did.
#[derive(Clone, Debug)]
pub struct ZipImported {
    /// The images in the zip, base first; those that were here already too.
    pub images: Vec<ImageInfo>,
    /// Files that came into the store, base first.
    pub added: Vec<String>,
    /// Files that were here, the same byte for byte.
    pub already_here: Vec<String>,
    /// Names the zip gives to images, which other images have here.
    pub names_taken: Vec<String>,
    /// Entries of the zip that are neither layers nor about them.
    pub passed_over: Vec<String>,
}

/// A zip whose layers can be put into place.
struct Ready {
    /// Base first.
    members: Vec<Member>,
    arriving: Vec<Arriving>,
    names_taken: Vec<String>,
    _pins: Vec<Pin>,
    _claims: Vec<Claim>,
}

impl Store {
    /// Imports the layers of a zip, all or none; durable on return.
    ///
    /// `name` is what the topmost image gets to be called, in place of the names in the zip. Fails
    /// with [`crate::ErrorKind::BadInput`] where the zip is damaged, dishonest, or lacks a parent that
    /// is not here either; with [`crate::ErrorKind::Conflict`] where a layer of the same GUID is here
    /// with other bytes, or the name is taken. Progress counts the files' bytes.
    pub fn import_zip(
        &self,
        file: &Path,
        name: Option<&Name>,
        watch: &dyn Watch,
    ) -> Result<ZipImported> {
        let zip = ZipReader::open(file)?;
        let intent = Intent::ArriveAll { arrivals: Vec::new() };
        let work = self.journal.begin(LayerGuid::random(), &intent, Prepared::default())?;
        let ready = self.make_zip_ready(&zip, &work, name, watch).inspect_err(|_| end(&work))?;
        let mut index = self.index();
        self.check_free(&index, &ready.arriving).inspect_err(|_| end(&work))?;
        self.bring_all(&mut index, &work, &ready.arriving)?;
        let images = ready.members.iter().filter_map(|member| index.layer(member.guid)?.as_image());
        let files = |is_new| {
            let members = ready.members.iter().filter(move |member| member.is_new == is_new);
            members.map(|member| member.file.clone()).collect()
        };
        Ok(ZipImported {
            images: images.map(|image| self.info(&index, image)).collect(),
            added: files(true),
            already_here: files(false),
            names_taken: ready.names_taken,
            passed_over: zip.passed_over,
        })
    }

    /// Does all that can fail for what is in the zip: what is left is to put files into place.
    fn make_zip_ready(
        &self,
        zip: &ZipReader,
        work: &Work,
        name: Option<&Name>,
        watch: &dyn Watch,
    ) -> Result<Ready> {
        let mut pins = Vec::new();
        let mut claims = Vec::new();
        let mut members = self.unpack(zip, work, &mut pins, &mut claims, watch)?;
        self.find_parents(&mut members, &mut pins)?;
        let order = base_first(&members)?;
        self.link_members(&members, &order)?;
        self.verify_members(&members)?;
        go_on(watch)?;
        let Arrivals { arriving, names_taken } = {
            let mut index = self.index();
            let arrivals = arrivals::of(&index, zip, &members, &order, name)?;
            let disks = arrivals.arriving.iter().flat_map(|one| &one.sidecar.disks);
            pins.extend(disks.map(|disk| index.pin(disk.guid)));
            arrivals
        };
        complete(work, &arriving)?;
        go_on(watch)?;
        let mut members: Vec<_> = members.into_iter().map(Some).collect();
        let members = order.iter().filter_map(|&number| members[number].take()).collect();
        Ok(Ready { members, arriving, names_taken, _pins: pins, _claims: claims })
    }

    /// Brings the files that are not here into the work's folder; compares the others.
    fn unpack(
        &self,
        zip: &ZipReader,
        work: &Work,
        pins: &mut Vec<Pin>,
        claims: &mut Vec<Claim>,
        watch: &dyn Watch,
    ) -> Result<Vec<Member>> {
        let total = zip.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.length));
        let (mut members, mut before) = (Vec::new(), 0_u64);
        for number in 0..zip.layers.len() {
            let (guid, length) = (zip.layers[number].guid, zip.layers[number].length);
            let here = {
                let mut index = self.index();
                let here = index.layer(guid).map(|layer| (layer.file.clone(), layer.sidecar.steps));
                here.inspect(|_| pins.push(index.pin(guid)))
            };
            let mut advanced = |done: u64| {
                watch.advanced(before.saturating_add(done), total);
                go_on(watch)
            };
            let (file, path) = match &here {
                Some((file, steps)) => {
                    let path = self.image_path(file);
                    if !zip.equals(number, &path, &mut advanced)? {
                        return Err(other_bytes(file, *steps));
                    }
                    (file.clone(), path)
                }
                None => {
                    claims.push(self.claims.take(Wanted::Key(guid))?);
                    let file = lawful(&zip.layers[number].file, guid);
                    let path = work.path(&file);
                    // Of one that comes alone the parent is here, or all further work is in vain.
                    let admit = |info: Info| match zip.layers.len() {
                        1 => self.check_parent(&zip.layers[number], info),
                        _ => Ok(()),
                    };
                    zip.extract(number, &path, &mut advanced, &admit)?;
                    look_at(&path, &zip.layers[number].called, length)?;
                    (file, path)
                }
            };
            let info = layer_file::info(&path)?;
            let is_new = here.is_none();
            let called = zip.layers[number].called.clone();
            members.push(Member { guid, file, called, path, info, is_new, parent: None });
            before = before.saturating_add(length);
        }
        Ok(members)
    }

    /// Refuses what somebody else brought meanwhile.
    fn check_free(&self, index: &Index, arriving: &[Arriving]) -> Result<()> {
        for one in arriving.iter().filter(|one| one.arrival.brings_disk) {
            let file = &one.arrival.file;
            let guid = one.sidecar.guid;
            let twin = index
                .damaged
                .keys()
                .find(|file| names::parse_disk_file(file).is_some_and(|(_, other)| other == guid));
            if let Some(twin) = twin {
                return Err(Error::conflict(format!(
                    "a file of the same GUID is here and cannot be read: images/{twin}"
                ))
                .hint("`ireko image verify` says what is wrong with it"));
            }
            if index.layer(guid).is_some() || durable::exists(&self.image_path(file))? {
                return Err(came_in_meanwhile(file));
            }
        }
        for name in arriving.iter().flat_map(|one| &one.arrival.names) {
            let name = Name::parse(name)?;
            if index.tags().contains_key(&name) {
                return Err(taken(&name));
            }
        }
        arrivals::check_ids(index, arriving)
    }
}

/// Returns a layer file's base name here: as it was, where NTFS would have it too.
fn lawful(file: &str, guid: LayerGuid) -> String {
    match names::parse_disk_file(file) {
        Some((slug, _)) if names::slug(slug) == slug => file.to_owned(),
        Some((slug, _)) => names::disk_file(slug, guid),
        None => names::disk_file("", guid),
    }
}

/// Looks for damage in a file that came out of a zip. One without any stays as it is, to the byte.
fn look_at(path: &Path, name: &str, length: u64) -> Result<()> {
    let looking = || format!("check {name} of the zip");
    let damaged = |error: Error| match error.kind() {
        ErrorKind::Corrupt => {
            Error::bad_input(format!("{}: {}", looking(), crate::error::chain(&error)))
        }
        _ => error,
    };
    check_plausible(&layer_file::info(path).map_err(damaged)?, length)?;
    let report = check::check(path).during(looking).map_err(damaged)?;
    match report.is_sound() && !report.dirty_log {
        true => Ok(()),
        false => layer_file::make_sound(path).map_err(|error| error.within(looking())),
    }
}

fn other_bytes(file: &str, steps: u32) -> Error {
    let error =
        Error::conflict(format!("{file} is here already, with other bytes than in the zip"));
    error.hint(match steps {
        0 | 1 => {
            "one of the two was changed or linked anew; nothing was taken. `ireko image rm` of the \
             image here, or an import elsewhere, keeps them apart"
        }
        _ => {
            "it was folded here with the layers below it, which no image had any more; nothing was \
             taken. An import into another root has the images of the zip as they were"
        }
    })
}

fn came_in_meanwhile(file: &str) -> Error {
    Error::conflict(format!("{file} came in meanwhile, by other means"))
        .hint("import the zip once more: what is here is compared then")
}

fn taken(name: &Name) -> Error {
    Error::conflict(format!("the name {} is in use by another image", name.familiar()))
        .hint("give the image another name: ireko image import FILE NAME")
}
