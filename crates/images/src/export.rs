//! An image as a file: a zip of its layers, or one disk of any format.
//!
//! ```text
//!   app-root ◄─ base ◄─ web          export(web)              web.zip = web_<guid>.vhdx, .json
//!                                    export(web, --tree)      web.zip = app-root…, base…, web…
//!                                    export(web, qcow2)       web.qcow2 = the whole disk
//! ```
//!
//! Data disks go into a zip as the image's own does; flattened, each is a file by itself.
//!
//! In a zip a layer is the very bytes of its file, beside its sidecar; InvokeV-Container takes such
//! a zip and passes the sidecars over. Equal images make equal zips.
//!
//! What is made lies in a hidden folder beside the target until it is whole; the journal knows the
//! folder, so that one left by a crash goes at the next start.

mod flatten;
mod plan;

use crate::conversion::{Filled, take_converted};
use crate::data_disks::DiskName;
use crate::error::{During, Error, ErrorKind, Result};
use crate::id::{ImageId, LayerGuid};
use crate::journal::{Prepared, Work};
use crate::state::Intent;
use crate::store::Store;
use crate::zip_writer::ZipWriter;
use crate::{durable, names};
use ireko_disk::{FileStorage, Lock, MemoryStorage, Storage, Watch};
use plan::{Files, Plan};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where another program writes, in the hidden folder; it sees nothing else of it.
const CONVERTED: &str = "converted";
const ASIDE: &str = ".ireko-export-";
/// Few writes of some size rather than many small ones.
const BUFFER: usize = 256 << 10;

/// What an image becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Its layers' files, zipped.
    Zip(Layers),
    /// Its whole disk as one VHDX file.
    Vhdx,
    /// As one VHD file that grows.
    Vhd,
    /// As one fixed VHD file of whole MiB, as Azure takes it.
    VhdFixed,
    /// As one qcow2 file.
    Qcow2,
    /// As one sparse file of the disk's bytes.
    Raw,
    /// As one VMDK file that grows.
    Vmdk,
}

/// Which of an image's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// Its own, for a store that has the others.
    Own,
    /// All, base first.
    Tree,
}

/// A file that is to be written.
#[derive(Clone, Debug)]
pub struct ExportTo {
    /// Where, in full.
    pub file: PathBuf,
    /// What.
    pub format: ExportFormat,
    /// A file that is there is replaced; it stays until the new one is whole.
    pub replace: bool,
    /// The data disk that is exported in place of the image's own; not in a zip, which holds all.
    pub disk: Option<DiskName>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The image.
    pub image: ImageId,
    /// Length in bytes of all that was written.
    pub bytes: u64,
    /// How many layers the zip holds; a flattened disk is made of so many.
    pub layers: usize,
    /// Data disks of the image that are not in it.
    pub left_out: Vec<DiskName>,
}

/// An image on its way to a file. Hand it to [`Store::publish_export`]; dropped, it is thrown away.
#[derive(Debug)]
#[must_use]
pub struct PendingExport {
    format: ExportFormat,
    plan: Plan,
    target: Target,
    aside: Aside,
}

impl Store {
    /// Writes an image as a zip of its layers' files into `out`, front to back.
    ///
    /// Progress counts the files' bytes. The same image makes the same bytes each time.
    pub fn export_zip(
        &self,
        image: &ImageId,
        layers: Layers,
        out: &mut dyn Write,
        watch: &dyn Watch,
    ) -> Result<Exported> {
        write_zip(&self.plan_export(image, Files::Zip(layers))?, out, watch)
    }

    /// Begins to write an image to a file, all of whose layers stay in place meanwhile.
    ///
    /// Fails with [`ErrorKind::Conflict`] where a file is there that is not to be replaced.
    pub fn begin_export(&self, image: &ImageId, to: &ExportTo) -> Result<PendingExport> {
        let files = match (to.format, &to.disk) {
            (ExportFormat::Zip(layers), None) => Files::Zip(layers),
            (ExportFormat::Zip(_), Some(_)) => {
                return Err(Error::bad_input("a zip holds all disks of an image")
                    .hint("one disk alone is exported in another format: vhdx, qcow2, …"));
            }
            (_, disk) => Files::Disk(disk.as_ref()),
        };
        let plan = self.plan_export(image, files)?;
        let target = Target::check(self, to)?;
        let guid = LayerGuid::random();
        let folder = target.folder.join(format!("{ASIDE}{guid}"));
        let intent = Intent::Export { folder: utf8(&folder)?.to_owned() };
        let work = self.reserve.spend(|| self.journal.begin(guid, &intent, Prepared::default()))?;
        let aside = Aside { folder, work };
        aside.make().map_err(|error| target.explain(error))?;
        Ok(PendingExport { format: to.format, plan, target, aside })
    }

    /// Writes the file aside, as far as that can be done here.
    ///
    /// Takes as long as the image is large; `watch` is told how far it is, and stops it.
    pub fn fill_export(&self, pending: &PendingExport, watch: &dyn Watch) -> Result<Filled> {
        pending.fill(watch).map_err(|error| pending.target.explain(error))
    }

    /// Gives the file its name, once it is durable; `watch` may stop it until then. A failure leaves
    /// nothing.
    pub fn publish_export(&self, pending: PendingExport, watch: &dyn Watch) -> Result<Exported> {
        let outcome = pending.publish(watch);
        let bytes = outcome.map_err(|error| pending.target.explain(error))?;
        let Plan { image, layers, left_out, .. } = pending.plan;
        Ok(Exported { image, bytes, layers: layers.len(), left_out })
    }

    fn plan_export(&self, image: &ImageId, files: Files<'_>) -> Result<Plan> {
        let mut index = self.index();
        Plan::make(self, &mut index, image, files)
    }
}

impl PendingExport {
    fn fill(&self, watch: &dyn Watch) -> Result<Filled> {
        match self.format {
            ExportFormat::Zip(_) => {
                let made = self.made();
                let writing = || format!("write {}", made.display());
                crate::step::allocating().during(writing)?;
                let file = OpenOptions::new().write(true).create_new(true).open(&made);
                let mut out = BufWriter::with_capacity(BUFFER, file.during(writing)?);
                write_zip(&self.plan, &mut out, watch)?;
                Ok(Filled::Whole)
            }
            format => flatten::flatten(self, format, watch),
        }
    }

    /// Returns the file's length.
    fn publish(&self, watch: &dyn Watch) -> Result<u64> {
        let made = self.made();
        take_converted(&self.aside.folder.join(CONVERTED), &made)?;
        let bytes = sync(&made)?;
        go_on(watch)?;
        self.target.take(&made)?;
        Ok(bytes)
    }

    /// Where the file is made.
    fn made(&self) -> PathBuf {
        self.aside.folder.join(&self.target.name)
    }
}

fn write_zip(plan: &Plan, out: &mut dyn Write, watch: &dyn Watch) -> Result<Exported> {
    let mut zip = ZipWriter::new(out, plan.created);
    let total = plan.bytes()?;
    let mut before = 0;
    for layer in &plan.layers {
        // A lock like a reader's: nothing rewrites the file meanwhile.
        let disk = FileStorage::open(&layer.path, Lock::Read)
            .during(|| format!("open {}", layer.path.display()))?;
        zip.add(&layer.file, &disk, &mut |done| advance(watch, before + done, total))?;
        before += disk.len().during(|| format!("look at {}", layer.path.display()))?;
        let sidecar = MemoryStorage::new(layer.sidecar.clone());
        zip.add(&names::sidecar_file(&layer.file), &sidecar, &mut |_| Ok(()))?;
    }
    let (bytes, layers, left_out) = (zip.finish()?, plan.layers.len(), Vec::new());
    Ok(Exported { image: plan.image, bytes, layers, left_out })
}

/// Removes what an export that a crash ended left.
pub(crate) fn sweep(work: &Work, folder: &str) -> Result<()> {
    let folder = Path::new(folder);
    // The name is checked again: the entry may be another program's idea of ours.
    let key = work.folder().file_name().and_then(|key| key.to_str()).unwrap_or_default();
    if folder.file_name().is_some_and(|name| name == format!("{ASIDE}{key}").as_str()) {
        durable::discard(folder);
    }
    work.end()
}

/// A path to a file that may be written.
#[derive(Debug)]
struct Target {
    folder: PathBuf,
    name: String,
    replace: bool,
}

impl Target {
    fn check(store: &Store, to: &ExportTo) -> Result<Self> {
        let refused = |why: &str| Error::bad_input(format!("{}: {why}", to.file.display()));
        let name = to.file.file_name().and_then(|name| name.to_str());
        let (Some(folder), Some(name)) = (to.file.parent(), name) else {
            return Err(refused("not the path of a file whose name is UTF-8"));
        };
        if !to.file.is_absolute() {
            return Err(refused("not an absolute path"));
        }
        let canonical = |path: &Path| {
            path.canonicalize().during(|| format!("look for the folder {}", path.display()))
        };
        let folder = canonical(folder)?;
        if folder.starts_with(canonical(&store.places.root)?) {
            return Err(refused("lies within the store").hint("export to a file elsewhere"));
        }
        let target = Self { name: name.to_owned(), replace: to.replace, folder };
        match target.path().symlink_metadata() {
            Err(_) => Ok(target),
            Ok(there) if there.is_dir() => Err(refused("a folder is there")),
            Ok(there) if !there.is_file() && !there.is_symlink() => {
                Err(refused("a device, pipe or socket is there, which no export replaces"))
            }
            Ok(_) if to.replace => Ok(target),
            Ok(_) => Err(target.is_there()),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn is_there(&self) -> Error {
        Error::conflict(format!("{} is there already", self.path().display()))
            .hint("--force replaces it")
    }

    /// Says which file system is full: not the store's.
    fn explain(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::NoSpace => {
                let folder = self.folder.display();
                error
                    .within(format!("export to {}", self.path().display()))
                    .hint(format!("free some space for {folder}; nothing is left of the export"))
            }
            _ => error,
        }
    }

    /// Gives a finished file its name.
    fn take(&self, made: &Path) -> Result<()> {
        let path = self.path();
        match self.replace {
            true => durable::rename(made, &path),
            false => durable::rename_new(made, &path).map_err(|error| match error.kind() {
                ErrorKind::Conflict => self.is_there(),
                _ => error,
            }),
        }
    }
}

/// The folder in which an export is made; it goes with the value, and the journal's entry with it.
#[derive(Debug)]
struct Aside {
    folder: PathBuf,
    work: Work,
}

impl Aside {
    fn make(&self) -> Result<()> {
        let making = || format!("make a folder in {}", self.folder.display());
        crate::step::allocating().during(making)?;
        DirBuilder::new().mode(0o700).create(&self.folder).during(making)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.folder.display(), %error, "left to the next start");
            return;
        }
        crate::import::end(&self.work);
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::bad_input(format!("{} is not UTF-8", path.display())))
}

fn advance(watch: &dyn Watch, done: u64, total: u64) -> Result<()> {
    watch.advanced(done, total);
    go_on(watch)
}

pub(crate) fn go_on(watch: &dyn Watch) -> Result<()> {
    match watch.cancelled() {
        true => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
        false => Ok(()),
    }
}

/// Makes a finished file durable.
fn sync(path: &Path) -> Result<u64> {
    let sync = || -> io::Result<u64> {
        let file = File::open(path)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    };
    sync().during(|| format!("sync {}", path.display()))
}
