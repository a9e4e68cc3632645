//! Filling files with what somebody's disks hold: the one of a file, or those of an archive.

use super::unpack::{self, Unpacked};
use crate::conversion::{self, Conversion, Filled};
use crate::data_disks::DiskName;
use crate::error::{During, Error, Result};
use crate::id::LayerGuid;
use crate::import::end;
use crate::journal::{Prepared, Work};
use crate::recognise::{self, DiskFormat, GivenFormat, Recognised};
use crate::state::Intent;
use crate::store::Store;
use crate::{copy, durable, layer_file, names, step, vet};
use ireko_disk::check::check;
use ireko_disk::{Access, Chain, Disk, FileStorage, Format, Lock, NewDisk, Watch, convert, vhd};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is unpacked of an archive, in the work's folder; a number follows.
const UNPACKED: &str = "unpacked";
/// Where another program writes, in the work's folder; it sees nothing else of ours. A number follows.
const CONVERTED: &str = "converted";
/// Data disks that a machine has room for.
const MOST_DATA: usize = 16;
/// What a disk without any mark of its own is called that is raw.
const RAW_ENDINGS: [&str; 2] = [".raw", ".img"];

/// Files that are being filled with what another holds; dropped, they are thrown away.
#[derive(Debug)]
pub(crate) struct Filling {
    source: PathBuf,
    what: Recognised,
    /// How many disks there may be.
    most: usize,
    pub guid: LayerGuid,
    called: String,
    pub work: Work,
    /// The disks, as soon as they are known: the own one, then the others.
    disks: Vec<FilledDisk>,
    /// The work is done, or left to the next start.
    pub settled: bool,
}

/// One disk on its way.
#[derive(Debug)]
pub(crate) struct FilledDisk {
    pub guid: LayerGuid,
    /// What it is called beside the own one; `None` for that.
    pub name: Option<DiskName>,
    /// What its file is called after.
    pub called: String,
    /// Its base name.
    pub file: String,
    /// Where it comes from, until that has been brought in or handed to another program.
    source: Option<Source>,
}

/// What a disk is filled from.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    format: DiskFormat,
    origin: Origin,
}

/// Whose file a disk is filled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The user's.
    Given,
    /// Our own, in the work's folder.
    Unpacked,
}

impl Filling {
    /// Records durably that files are being made: `called` is what the base name of the first begins with.
    pub(crate) fn begin(
        store: &Store,
        source: &Path,
        what: Recognised,
        guid: LayerGuid,
        called: &str,
    ) -> Result<Filling> {
        let intent = Intent::ArriveAll { arrivals: Vec::new() };
        let work = store.journal.begin(guid, &intent, Prepared::default())?;
        Ok(Filling {
            source: source.to_owned(),
            what,
            most: 1 + MOST_DATA,
            guid,
            called: called.to_owned(),
            work,
            disks: Vec::new(),
            settled: false,
        })
    }

    /// Refuses more than one disk.
    pub(crate) fn of_one(mut self) -> Filling {
        self.most = 1;
        self
    }

    /// Brings in what the source holds, as far as that can be done here. After another program has done
    /// its part the next call goes on.
    pub(crate) fn fill(&mut self, watch: &dyn Watch) -> Result<Filled> {
        if self.disks.is_empty() {
            self.disks = self.find_disks(watch)?;
        }
        for number in 0..self.disks.len() {
            let Some(source) = self.disks[number].source.take() else { continue };
            // Held, so that none of our own programs writes to it meanwhile.
            let opening = || format!("open {}", source.path.display());
            let _held = match source.origin {
                Origin::Given => Some(FileStorage::open(&source.path, Lock::Read).during(opening)?),
                Origin::Unpacked => None,
            };
            let leaf = self.work.path(&self.disks[number].file);
            let converted = self.converted(number);
            if let Filled::ToConvert(conversion) = fill(&source, &leaf, &converted, watch)? {
                return Ok(Filled::ToConvert(conversion));
            }
        }
        Ok(Filled::Whole)
    }

    /// Finds the disks, unpacking them where they are in an archive.
    fn find_disks(&self, watch: &dyn Watch) -> Result<Vec<FilledDisk>> {
        match self.what {
            Recognised::Disk(format) => {
                let source = Source { path: self.source.clone(), format, origin: Origin::Given };
                Ok(vec![self.own(source)])
            }
            Recognised::Packed(packing, compression) => {
                let to = |number| self.work.path(&format!("{UNPACKED}-{number}"));
                let paths: Vec<_> = (0..self.most).map(to).collect();
                let unpacked = unpack::disks(&self.source, (packing, compression), &paths, watch)?;
                let mut disks: Vec<FilledDisk> = Vec::new();
                for disk in unpacked {
                    let format = format(&disk, disks.is_empty())
                        .map_err(|error| inside(packing, &disk.name, &error))?;
                    let origin = Origin::Unpacked;
                    let source = Source { path: disk.path.clone(), format, origin };
                    let next = match disks.is_empty() {
                        true => self.own(source),
                        false => self.data(&disk, &disks, source)?,
                    };
                    disks.push(next);
                }
                Ok(disks)
            }
            other => Err(Error::bad_input(format!("a {other} is no disk"))),
        }
    }

    fn own(&self, source: Source) -> FilledDisk {
        let (called, file) = (self.called.clone(), names::disk_file(&self.called, self.guid));
        FilledDisk { guid: self.guid, name: None, called, file, source: Some(source) }
    }

    fn data(&self, disk: &Unpacked, others: &[FilledDisk], source: Source) -> Result<FilledDisk> {
        let file = disk.name.rsplit('/').next().unwrap_or_default();
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        let is_free = |name: &DiskName| {
            others.iter().flat_map(|other| &other.name).all(|other| !other.is_same(name))
        };
        let said = disk.called.iter().map(|name| name.parse());
        let numbered = (1..=others.len()).map(|number| format!("disk{number}").parse());
        let named = said.chain([stem.parse()]).chain(numbered);
        let name = named.flatten().find(is_free);
        let name = name.ok_or_else(|| {
            Error::bad_input(format!("no name is left for the data disk {:?}", disk.name))
        })?;
        let (guid, called) = (LayerGuid::random(), format!("{}_{name}", self.called));
        let file = names::disk_file(&called, guid);
        Ok(FilledDisk { guid, name: Some(name), called, file, source: Some(source) })
    }

    fn converted(&self, number: usize) -> PathBuf {
        self.work.path(&format!("{CONVERTED}-{number}"))
    }

    /// Returns the disks, whole and checked, the own one first, each with its file.
    pub(crate) fn whole(&self) -> Result<Vec<(&FilledDisk, PathBuf)>> {
        let whole = |(number, disk): (usize, _)| {
            let disk: &FilledDisk = disk;
            let leaf = self.work.path(&disk.file);
            conversion::take_converted(&self.converted(number), &leaf)?;
            layer_file::make_sound(&leaf)?;
            Ok((disk, leaf))
        };
        self.disks.iter().enumerate().map(whole).collect()
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if !self.settled {
            end(&self.work);
        }
    }
}

/// Tells what a disk of an archive is. A data disk without any mark is raw where its name says so: it may
/// hold a file system without partitions.
fn format(disk: &Unpacked, is_first: bool) -> Result<DiskFormat> {
    let lower = disk.name.to_ascii_lowercase();
    let may_be_raw = !is_first && RAW_ENDINGS.iter().any(|ending| lower.ends_with(ending));
    let what = match recognise::recognise(&disk.path, None) {
        Err(_) if may_be_raw => {
            let raw = Some(GivenFormat::Disk(DiskFormat::Raw));
            recognise::recognise(&disk.path, raw)?
        }
        what => what?,
    };
    match what {
        Recognised::Disk(format) => Ok(format),
        other => Err(Error::bad_input(format!("it is a {other}"))),
    }
}

/// Fills `leaf`, or says what another program has to make in the folder `converted` first.
fn fill(source: &Source, leaf: &Path, converted: &Path, watch: &dyn Watch) -> Result<Filled> {
    let Source { path, format, origin } = source;
    match format {
        DiskFormat::Vhdx if *origin == Origin::Unpacked => durable::rename(path, leaf)?,
        DiskFormat::Vhdx => copy_unchanged(path, leaf, watch)?,
        DiskFormat::Vhd => {
            check_vhd(path)?;
            convert_here(path, Format::Vhd, leaf, watch)?;
        }
        DiskFormat::Raw => convert_here(path, Format::Raw, leaf, watch)?,
        DiskFormat::Qcow2 | DiskFormat::Vmdk | DiskFormat::Vdi => {
            let virtual_size = vet::vet(path, *format)?;
            return Ok(Filled::ToConvert(Conversion::plan(
                (path, *format),
                (converted, DiskFormat::Vhdx),
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

fn inside(packing: recognise::Packing, name: &str, error: &Error) -> Error {
    let error_text = crate::error::chain(error);
    Error::bad_input(format!("the disk {name:?} in the {packing} cannot be used: {error_text}"))
}
