//! Verifying images: their files, the links between them, and with patience all their data.
//!
//! Each file is looked at once, however many images stand on it. Nothing is changed.

use crate::error::{During, Result};
use crate::find::find;
use crate::id::{ImageId, LayerGuid};
use crate::index::{Index, Pin};
use crate::store::Store;
use crate::{durable, layer_file, names};
use ireko_disk::check::{Severity, check_chain};
use ireko_disk::{Chain, Disk, Extent, ExtentKind, Watch};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is read at once, and listed at once.
const PIECE: u64 = 1 << 20;
const EXTENTS: usize = 4096;

/// How thoroughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What the files say of themselves and of each other.
    Metadata,
    /// All data is read too.
    Data,
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// How many images.
    pub images: usize,
    /// How many files they are made of.
    pub files: usize,
    /// Bytes of data that were read.
    pub read_bytes: u64,
    /// What is wrong; nothing, where all is well.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, or not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is wrong with: a file in `images/`, or an image by its name.
    pub object: String,
    /// What it is and what follows, for people.
    pub message: String,
    /// Every byte can be read all the same.
    pub is_warning: bool,
}

/// One file to look at.
struct Target {
    path: PathBuf,
    parent: Option<PathBuf>,
}

/// What is to be looked at; the pins keep it from being removed meanwhile.
#[derive(Default)]
struct Targets {
    files: BTreeMap<LayerGuid, (String, Target)>,
    chains: Vec<(String, Vec<PathBuf>)>,
    images: usize,
    problems: Vec<Problem>,
    _pins: Vec<Pin>,
}

impl Store {
    /// Verifies images, all of them where none is named. Progress counts bytes of data read.
    ///
    /// What is wrong is no error but a [`Problem`]. Fails where an image is not there, and when it is
    /// cancelled.
    pub fn verify(&self, images: &[String], depth: Depth, watch: &dyn Watch) -> Result<Verified> {
        let Targets { files, chains, images, mut problems, _pins } = self.targets(images)?;
        for (name, target) in files.values() {
            look(name, target, &mut problems);
        }
        for (label, chain) in &chains {
            if let Err(error) = layer_file::verify(chain) {
                problems.push(error_of(label, &error));
            }
        }
        let mut reading = Reading { watch, total: 0, done: 0 };
        if depth == Depth::Data {
            reading.read_all(&files, &mut problems)?;
        }
        Ok(Verified { images, files: files.len(), read_bytes: reading.done, problems })
    }

    fn targets(&self, images: &[String]) -> Result<Targets> {
        let mut index = self.index();
        let mut targets = Targets::default();
        let ids: Vec<ImageId> = match images {
            [] => {
                targets.problems.extend(of_the_store(&index));
                let files = durable::names_in(&self.places.images)?;
                let passed = files.iter().filter_map(|file| passed_over(&index, &files, file));
                targets.problems.extend(passed);
                index.images().map(|image| image.id).collect()
            }
            named => {
                let ids = named.iter().map(|name| Ok(find(&index, name)?.id()));
                ids.collect::<Result<_>>()?
            }
        };
        let mut pinned = Vec::new();
        for id in &ids {
            let (label, layer) = (index.label(id), index.image(id)?.layer);
            let data = layer
                .sidecar
                .disks
                .iter()
                .map(|disk| (format!("disk {} of {label}", disk.name), index.data_layer(disk)));
            for (label, layer) in std::iter::once((label.clone(), Ok(layer))).chain(data) {
                let lineage = match layer.and_then(|layer| index.lineage(&layer.file)) {
                    Ok(lineage) => lineage,
                    Err(error) => {
                        targets.problems.push(error_of(&label, &error));
                        continue;
                    }
                };
                let paths: Vec<_> =
                    lineage.iter().map(|layer| self.image_path(&layer.file)).collect();
                for (at, layer) in lineage.iter().enumerate() {
                    let (path, parent) = (paths[at].clone(), paths.get(at + 1).cloned());
                    let target = Target { path, parent };
                    targets.files.insert(layer.sidecar.guid, (layer.file.clone(), target));
                }
                pinned.extend(lineage.first().map(|layer| layer.sidecar.guid));
                targets.chains.push((label, paths));
            }
        }
        targets.images = ids.len();
        targets._pins = pinned.into_iter().map(|guid| index.pin(guid)).collect();
        Ok(targets)
    }
}

/// What is wrong with no image in particular.
fn of_the_store(index: &Index) -> Vec<Problem> {
    let damaged = index.damaged.iter().map(|(file, reason)| Problem {
        object: file.clone(),
        message: reason.clone(),
        is_warning: false,
    });
    let lost = index.tags().iter().filter(|(_, id)| index.image(id).is_err());
    let lost = lost.map(|(name, id)| Problem {
        object: name.familiar(),
        message: format!("the name points at image {}, which is not there", id.short()),
        is_warning: false,
    });
    damaged.chain(lost).collect()
}

/// Tells of a disk file in the folder of images that no image can be.
fn passed_over(index: &Index, files: &[String], file: &str) -> Option<Problem> {
    let message = match names::parse_disk_file(file) {
        None if names::without_disk_suffix(file) == file => return None,
        None => {
            "is passed over: no GUID is in its name; `ireko image import` takes it in".to_owned()
        }
        Some((_, guid)) => {
            let owner = index.layer(guid).filter(|layer| layer.file != file)?;
            // One that was renamed is no twin of itself.
            files.binary_search(&owner.file).ok()?;
            format!("is passed over: {} has the same GUID in its name", owner.file)
        }
    };
    Some(Problem { object: file.to_owned(), message, is_warning: true })
}

/// Looks at one file, and at its link to the one below.
fn look(name: &str, target: &Target, problems: &mut Vec<Problem>) {
    let pair: Vec<_> = std::iter::once(&target.path).chain(&target.parent).cloned().collect();
    match check_chain(&pair) {
        Ok(reports) => {
            let findings = reports.into_iter().next().map(|(_, report)| report.findings);
            let findings = findings.unwrap_or_default().into_iter();
            let wrong = findings.filter(|finding| finding.severity > Severity::Note);
            problems.extend(wrong.map(|finding| Problem {
                object: name.to_owned(),
                message: finding.message,
                is_warning: finding.severity == Severity::Warning,
            }));
        }
        Err(error) => problems.push(Problem {
            object: name.to_owned(),
            message: crate::error::chain(&error).to_string(),
            is_warning: false,
        }),
    }
}

fn error_of(object: &str, error: &crate::Error) -> Problem {
    let mut message = crate::error::chain(error).to_string();
    if let Some(remedy) = error.remedy() {
        message = format!("{message} ({remedy})");
    }
    Problem { object: object.to_owned(), message, is_warning: false }
}

/// Reading all data of some files.
struct Reading<'a> {
    watch: &'a dyn Watch,
    /// Bytes there are, and bytes read.
    total: u64,
    done: u64,
}

impl Reading<'_> {
    fn read_all(
        &mut self,
        files: &BTreeMap<LayerGuid, (String, Target)>,
        problems: &mut Vec<Problem>,
    ) -> Result<()> {
        // A file that does not open was found already.
        let open = |path: &Path| Chain::open_top(&[path.to_owned()]).ok();
        for (_, target) in files.values() {
            if let Some(disk) = open(&target.path) {
                each_extent(&disk, |extent| {
                    self.total += extent.length;
                    Ok(())
                })
                .ok();
            }
        }
        let mut buffer = vec![0; PIECE as usize];
        for (name, target) in files.values() {
            let Some(disk) = open(&target.path) else { continue };
            let reading = || format!("read all data of {}", target.path.display());
            let read = each_extent(&disk, |extent| self.read(&disk, extent, &mut buffer));
            match read.during(reading) {
                Err(error) if error.kind() == crate::ErrorKind::Cancelled => return Err(error),
                Err(error) => problems.push(error_of(name, &error)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn read(&mut self, disk: &Chain, extent: Extent, buffer: &mut [u8]) -> ireko_disk::Result<()> {
        let end = extent.offset + extent.length;
        let mut at = extent.offset;
        while at < end {
            let length = PIECE.min(end - at);
            disk.read_at(at, &mut buffer[..length as usize])?;
            at += length;
            self.done += length;
            self.watch.advanced(self.done, self.total);
            if self.watch.cancelled() {
                let kind = ireko_disk::ErrorKind::Cancelled;
                return Err(ireko_disk::Error::new(kind, "cancelled"));
            }
        }
        Ok(())
    }
}

/// Calls `visit` with each extent of data.
fn each_extent(
    disk: &Chain,
    mut visit: impl FnMut(Extent) -> ireko_disk::Result<()>,
) -> ireko_disk::Result<()> {
    let size = disk.geometry().virtual_size;
    let mut at = 0;
    while at < size {
        let extents = disk.extents(at, size - at, EXTENTS)?;
        let Some(last) = extents.last() else { break };
        at = last.offset + last.length;
        for extent in extents.into_iter().filter(|extent| extent.kind == ExtentKind::Data) {
            visit(extent)?;
        }
    }
    Ok(())
}
