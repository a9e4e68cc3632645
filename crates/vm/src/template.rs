//! Templates: utility VMs that were booted once and saved, for others to go on from.
//!
//! ```text
//!   <cache>/templates/<key>/ram              the VM's memory; mapped privately by all that go on from it
//!                          /state            the rest of it
//!                          /template.json    what it is, and how both files were when it was made
//!   <cache>/templates/<key>.lock             held by whoever makes or removes it
//!                    /verified               in which boot of the host all were read whole
//!   <cache>/templates/.new-<key>/            one in the making, .old-<key>/ one on its way out
//! ```
//! A key says all that a saved state depends on ([`Key::of`]): another QEMU, kernel, agent or shape is
//! another template. One byte more or less in a template would be a VM that fails in ways nobody can
//! explain, so both files are hashed when they are made and by [`Templates::verify`]; a claim compares
//! what the file system says of them, which costs nothing. A template that is not as it was made is made
//! anew. Each is made aside and renamed; whoever goes on from one holds a shared lock on its
//! `template.json`, which is what "in use" means.

mod key;
pub(crate) mod sealed;

pub use key::Key;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::host_tsc_khz;
use crate::replace_file::replace_file;
use crate::spec::SavedVm;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sealed::Sealed;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The version of `template.json`; another one's template is made anew.
const VERSION: u32 = 1;
/// What all templates together may take on the host's disk when one more is made, in bytes.
const BUDGET: u64 = 4_000_000_000;
/// A `template.json` is some hundred bytes.
const MAX_RECORD: u64 = 64 << 10;
/// A guest's clock is told the rate of the host's counter. Where that has changed by more than this part
/// of it, as on another host, the guest's clock would be wrong.
const CLOCK_TOLERANCE: u32 = 5_000;

/// The templates in one cache.
#[derive(Clone, Debug)]
pub struct Templates {
    folder: PathBuf,
}

/// A template that can be gone on from, and stays for as long as this value.
#[derive(Debug)]
pub struct Template {
    /// What a VM goes on from.
    pub saved: SavedVm,
    record: File,
}

/// What a template is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// Guest RAM in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Network devices.
    pub nics: usize,
    /// When it was made.
    pub created: SystemTime,
    /// When a VM went on from it last.
    pub used: SystemTime,
    /// Bytes it takes on the host's disk.
    pub bytes: u64,
    /// A VM that went on from it runs.
    pub in_use: bool,
}

/// The shape of a template's VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// `kvm` or `tcg`.
    pub accel: String,
    /// Guest RAM in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Network devices.
    pub nics: usize,
}

/// `template.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    shape: Shape,
    created: SystemTime,
    boot_id: String,
    tsc_khz: Option<u32>,
    ram: Sealed,
    state: Sealed,
}

impl Templates {
    /// The templates in this cache; nothing is opened or made.
    pub fn in_cache(cache: &Path) -> Self {
        Self { folder: cache.join("templates") }
    }

    /// Returns the template of this key. Where there is none, or it is not as it was made, `make` fills a
    /// folder with files `ram` and `state`, once however many ask for it at the same time.
    ///
    /// # Errors
    /// What `make` fails with, or `Io`; the cache then holds what it held, but for a damaged template.
    pub fn claim<E: From<Error>>(
        &self,
        key: &Key,
        shape: &Shape,
        make: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> std::result::Result<Template, E> {
        if let Some(template) = self.find(key)? {
            return Ok(template);
        }
        let _turn = self.turn(key)?;
        if let Some(template) = self.look(key, FlockOperation::LockShared)? {
            return Ok(template);
        }
        self.put_away(key)?;
        let aside = self.folder.join(format!(".new-{}", key.0));
        remove_folder(&aside)?;
        new_folder(&aside)?;
        let made = make(&aside).and_then(|()| Ok(self.publish(key, shape, &aside)?));
        if made.is_err() {
            // What is left is removed by the next to make it.
            let _ = remove_folder(&aside);
        }
        made?;
        if let Err(error) = self.prune(BUDGET) {
            tracing::warn!(%error, "old templates are not removed");
        }
        self.look(key, FlockOperation::LockShared)?.ok_or_else(|| {
            Error::new(ErrorKind::Io, format!("template {} changed while it was made", key.0))
                .into()
        })
    }

    /// Returns the template of this key where it is there, and as it was made.
    ///
    /// # Errors
    /// `Io` where its files cannot be looked at.
    pub fn find(&self, key: &Key) -> Result<Option<Template>> {
        self.look(key, FlockOperation::NonBlockingLockShared)
    }

    /// The same; whoever has a turn may wait for the lock, since nobody removes the template meanwhile.
    fn look(&self, key: &Key, lock: FlockOperation) -> Result<Option<Template>> {
        let folder = self.folder.join(&key.0);
        let Some((file, record)) = read_record(&folder)? else { return Ok(None) };
        match flock(&file, lock) {
            Ok(()) => {}
            // It is being removed, or looked at.
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(Error::io("lock a template", error)),
        }
        let saved = SavedVm { ram: folder.join("ram"), state: folder.join("state") };
        let is_whole = record.ram.is_still(&saved.ram) && record.state.is_still(&saved.state);
        if !is_whole || !record.clock_is_right()? {
            return Ok(None);
        }
        // Only for whoever wants to know which was used last.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(Template { saved, record: file }))
    }

    /// Removes the template of this key, because VMs do not go on from it.
    ///
    /// # Errors
    /// `Io`.
    pub fn discard(&self, key: &Key) -> Result<()> {
        let _turn = self.turn(key)?;
        self.put_away(key)
    }

    /// All there are, the one used last first.
    ///
    /// # Errors
    /// `Io` where the cache cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for key in self.keys()? {
            let folder = self.folder.join(&key.0);
            let Some((file, record)) = read_record(&folder)? else { continue };
            let Ok(meta) = file.metadata() else { continue };
            let bytes = ["ram", "state", "template.json"].iter().filter_map(|name| {
                fs::metadata(folder.join(name)).ok().map(|meta| meta.blocks() * 512)
            });
            listed.push(Listed {
                accel: record.shape.accel,
                memory_mib: record.shape.memory_mib,
                vcpus: record.shape.vcpus,
                nics: record.shape.nics,
                created: record.created,
                used: meta.modified().unwrap_or(record.created),
                bytes: bytes.sum(),
                in_use: flock(&file, FlockOperation::NonBlockingLockExclusive).is_err(),
                key,
            });
        }
        listed.sort_by_key(|one| std::cmp::Reverse(one.used));
        Ok(listed)
    }

    /// Removes a template that no VM uses; `false` where one does, or it is in the making.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(&self, key: &Key) -> Result<bool> {
        let Some(_turn) = self.try_turn(key)? else { return Ok(false) };
        let Some((file, _)) = read_record(&self.folder.join(&key.0))? else {
            return self.put_away(key).map(|()| true);
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => self.put_away(key).map(|()| true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(Error::io("lock a template", error)),
        }
    }

    /// Removes what no VM uses, the one used longest ago first, until all together take no more than
    /// `budget` bytes; what was removed.
    ///
    /// # Errors
    /// `Io`.
    pub fn prune(&self, budget: u64) -> Result<Vec<Listed>> {
        let mut listed = self.list()?;
        let mut total: u64 = listed.iter().map(|one| one.bytes).sum();
        let mut removed = Vec::new();
        while total > budget
            && let Some(last) = listed.pop()
        {
            if self.remove(&last.key)? {
                total -= last.bytes;
                removed.push(last);
            }
        }
        Ok(removed)
    }

    /// [`Templates::verify`], where it was not done yet since the host was started.
    ///
    /// # Errors
    /// The same.
    pub fn verify_once_a_boot(&self) -> Result<Vec<Key>> {
        let done = self.folder.join("verified");
        let boot_id = boot_id()?;
        if !self.folder.is_dir() || fs::read_to_string(&done).is_ok_and(|text| text == boot_id) {
            return Ok(Vec::new());
        }
        let wrong = self.verify()?;
        replace_file(&done, &[boot_id.as_bytes()])
            .map_err(|error| Error::io(format!("write {}", done.display()), error))?;
        Ok(wrong)
    }

    /// Reads every template whole, and removes those that are not what was made; their keys.
    ///
    /// # Errors
    /// `Io` where one cannot be removed.
    pub fn verify(&self) -> Result<Vec<Key>> {
        let mut wrong = Vec::new();
        for key in self.keys()? {
            let folder = self.folder.join(&key.0);
            let Some((_file, record)) = read_record(&folder)? else {
                self.discard(&key)?;
                wrong.push(key);
                continue;
            };
            let is_whole = record.ram.has_hash(&folder.join("ram"))
                && record.state.has_hash(&folder.join("state"));
            if !is_whole {
                self.discard(&key)?;
                wrong.push(key);
            }
        }
        Ok(wrong)
    }

    fn keys(&self) -> Result<Vec<Key>> {
        let reading = |error| Error::io(format!("read {}", self.folder.display()), error);
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(reading(error)),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let name = entry.map_err(reading)?.file_name();
            keys.extend(name.to_str().and_then(Key::parse));
        }
        Ok(keys)
    }

    /// Makes what was made aside the template of its key.
    fn publish(&self, key: &Key, shape: &Shape, aside: &Path) -> Result<()> {
        let record = Record {
            version: VERSION,
            shape: shape.clone(),
            created: SystemTime::now(),
            boot_id: boot_id()?,
            tsc_khz: host_tsc_khz(),
            ram: Sealed::seal(&aside.join("ram"))?,
            state: Sealed::seal(&aside.join("state"))?,
        };
        let json = serde_json::to_vec_pretty(&record)
            .map_err(|error| Error::io("write template.json", error))?;
        replace_file(&aside.join("template.json"), &[&json])
            .and_then(|()| fs::rename(aside, self.folder.join(&key.0)))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(|error| Error::io(format!("publish template {}", key.0), error))
    }

    /// Takes away what lies under a key. VMs that went on from it do not notice.
    fn put_away(&self, key: &Key) -> Result<()> {
        let old = self.folder.join(format!(".old-{}", key.0));
        remove_folder(&old)?;
        match fs::rename(self.folder.join(&key.0), &old) {
            Ok(()) => remove_folder(&old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io(format!("remove template {}", key.0), error)),
        }
    }

    fn turn(&self, key: &Key) -> Result<File> {
        let file = self.lock_file(key)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::io("wait for a template's lock", error)),
            }
        }
    }

    fn try_turn(&self, key: &Key) -> Result<Option<File>> {
        let file = self.lock_file(key)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::io("take a template's lock", error)),
        }
    }

    fn lock_file(&self, key: &Key) -> Result<File> {
        let path = self.folder.join(format!("{}.lock", key.0));
        fs::create_dir_all(&self.folder)
            .and_then(|()| File::options().create(true).append(true).open(&path))
            .map_err(|error| Error::io(format!("open {}", path.display()), error))
    }
}

impl Template {
    /// The lock that keeps it; held for as long as the descriptor, also by a child that inherits it.
    pub fn lock(&self) -> &File {
        &self.record
    }
}

impl Record {
    fn clock_is_right(&self) -> Result<bool> {
        let Some(khz) = self.tsc_khz else { return Ok(true) };
        if boot_id()? == self.boot_id {
            return Ok(true);
        }
        let now = host_tsc_khz();
        Ok(now.is_some_and(|now| now.abs_diff(khz) <= khz / CLOCK_TOLERANCE))
    }
}

/// The record in a template's folder; `None` where there is none that can be used.
fn read_record(folder: &Path) -> Result<Option<(File, Record)>> {
    let path = folder.join("template.json");
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| {
        (&file).take(MAX_RECORD).read_to_end(&mut text)?;
        Ok(file)
    });
    match read {
        Ok(file) => {
            let record = serde_json::from_slice::<Record>(&text);
            Ok(record.ok().filter(|record| record.version == VERSION).map(|record| (file, record)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
    }
}

fn boot_id() -> Result<String> {
    let file = "/proc/sys/kernel/random/boot_id";
    let text =
        fs::read_to_string(file).map_err(|error| Error::io(format!("read {file}"), error))?;
    Ok(text.trim().to_owned())
}

fn new_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::io(format!("make {}", path.display()), error))
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
