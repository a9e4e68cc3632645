//! Repairing links after files were moved or renamed: which file a child's parent is now.
//!
//! ```text
//!   Base_<guid>.vhdx ◄─ web     renamed     Win2016_<guid>.vhdx   web     repair     Win2016 ◄─ web
//! ```
//! A child remembers its parent's DataWriteGuid, which tells whether a file has the bytes the child
//! was made over. Copies share it: among those, the GUID in the file name that the child remembers
//! decides, then the whole name. Where that does not, people say which file it is.
//!
//! Only locators are written: no disk's bytes change, and no disk is written that is in use.

use crate::collect::container_disks;
use crate::error::{Error, Result};
use crate::find::find;
use crate::foreign;
use crate::id::LayerGuid;
use crate::index::{Index, MAX_LINEAGE};
use crate::journal::Work;
use crate::state::{Intent, Link};
use crate::store::Store;
use crate::{chain, durable, layer_file, names, recover};
use ireko_disk::vhdx::ParentLink;
use ireko_disk::{Guid, Verify};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a repair did.
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// The disks that were linked anew.
    pub linked: Vec<Relinked>,
    /// The disks whose link is broken still, each with the reason.
    pub broken: Vec<Broken>,
}

/// A disk that was linked anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relinked {
    /// Its path, relative to the root.
    pub disk: String,
    /// Its parent's base name in `images/`.
    pub parent: String,
}

/// A disk whose link could not be repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its path, relative to the root.
    pub disk: String,
    /// Why, and what can be done.
    pub reason: String,
}

/// What is asked of a parent that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentCheck {
    /// It has the bytes that the child was made over.
    Required,
    /// Nothing: what the child does not hold itself may read as garbage.
    Forced,
}

impl Store {
    /// Links every disk whose parent is not where its locator says to the file that is its parent.
    ///
    /// Looks at the folder of images anew first. Disks that cannot be repaired are told of and do not
    /// keep the others from being.
    pub fn repair(&self) -> Result<Repaired> {
        let mut index = self.index();
        self.look_anew(&mut index)?;
        let candidates = self.candidates(&index);
        let mut repaired = Repaired::default();
        let mut links = Vec::new();
        for disk in self.disks(&index)? {
            match self.parent_for(&index, &candidates, &disk) {
                Ok(None) => {}
                Ok(Some(parent)) => {
                    links.push(Link { disk: self.relative(&disk), parent, force: false });
                }
                Err(error) => {
                    let disk = self.relative(&disk);
                    repaired.broken.push(Broken { disk, reason: words(&error) });
                }
            }
        }
        self.link_all(&mut index, links, &mut repaired)?;
        Ok(repaired)
    }

    /// Links an image's file to another image's as its parent.
    ///
    /// Fails with [`crate::ErrorKind::Conflict`] where that is not what the child was made over,
    /// unless it is forced, and where the parent stands on the child.
    pub fn repair_image(&self, image: &str, parent: &str, check: ParentCheck) -> Result<Relinked> {
        let mut index = self.index();
        self.look_anew(&mut index)?;
        let (child, parent) = (find(&index, image)?.id(), find(&index, parent)?.id());
        let (child, parent) =
            (index.image(&child)?.layer.clone(), index.image(&parent)?.layer.clone());
        let above = index.lineage(&parent.file)?;
        if above.iter().any(|layer| layer.file == child.file) {
            return Err(Error::conflict(format!(
                "images/{} stands on images/{} and cannot be its parent",
                parent.file, child.file
            )));
        }
        self.link_to_named(&mut index, &self.image_path(&child.file), &parent.file, check)
    }

    /// Links a container's disk, which nobody uses, to an image's file as its parent; of one with
    /// checkpoints, the lowest of its files. Otherwise as [`Store::repair_image`].
    pub fn repair_disk(&self, disk: &Path, parent: &str, check: ParentCheck) -> Result<Relinked> {
        let mut index = self.index();
        self.look_anew(&mut index)?;
        let mut lowest = disk.to_owned();
        for _ in 0..MAX_LINEAGE {
            let Some(name) = chain::parent_name(&lowest)? else { break };
            let Some(beside) = self.parent_beside(&index, &lowest, &name)? else { break };
            lowest = beside;
        }
        let parent = find(&index, parent)?.id();
        let parent = index.image(&parent)?.layer.file.clone();
        self.link_to_named(&mut index, &lowest, &parent, check)
    }

    fn link_to_named(
        &self,
        index: &mut Index,
        disk: &Path,
        parent: &str,
        check: ParentCheck,
    ) -> Result<Relinked> {
        let child = self.relative(disk);
        let folder = self.places.images_name();
        let Some(link) = layer_file::info(disk)?.parent else {
            return Err(Error::bad_input(format!("{child} is a base disk: it has no parent")));
        };
        let identity = layer_file::info(&self.image_path(parent))?.data_write_guid;
        if check == ParentCheck::Required && !link.accepts(identity) {
            return Err(Error::conflict(format!(
                "{child} was not made over {folder}/{parent} as it is: that is another disk, or its \
                 data changed since"
            ))
            .hint(
                "--force links them all the same; what the disk does not hold itself then comes \
                 from that one, and may be garbage",
            ));
        }
        let force = check == ParentCheck::Forced;
        let link = Link { disk: child, parent: parent.to_owned(), force };
        let linked = Relinked { disk: link.disk.clone(), parent: link.parent.clone() };
        let mut repaired = Repaired::default();
        self.link_all(index, vec![link], &mut repaired)?;
        match repaired.broken.pop() {
            None => Ok(linked),
            Some(broken) => Err(Error::conflict(format!("{}: {}", broken.disk, broken.reason))),
        }
    }

    /// Reads the folder of images once more: files may have come, gone and changed their names.
    fn look_anew(&self, index: &mut Index) -> Result<()> {
        let mut lost = Vec::new();
        for layer in index.layers() {
            if !durable::exists(&self.image_path(&layer.file))? {
                lost.push(layer.sidecar.guid);
            }
        }
        lost.into_iter().for_each(|guid| index.forget(guid));
        recover::read_images(self, index)?;
        foreign::take_in(self, index)
    }

    /// Lists the disks that may have a parent in `images/`.
    fn disks(&self, index: &Index) -> Result<Vec<PathBuf>> {
        let mut disks: Vec<_> = index.layers().map(|layer| self.image_path(&layer.file)).collect();
        disks.sort();
        disks.extend(container_disks(&self.places.containers)?);
        Ok(disks)
    }

    /// Lists all layers by what their children know them by.
    fn candidates(&self, index: &Index) -> BTreeMap<Guid, Vec<String>> {
        let mut candidates: BTreeMap<Guid, Vec<String>> = BTreeMap::new();
        for layer in index.layers() {
            // One that cannot be read is nobody's parent.
            if let Ok(info) = layer_file::info(&self.image_path(&layer.file)) {
                candidates.entry(info.data_write_guid).or_default().push(layer.file.clone());
            }
        }
        candidates
    }

    /// Finds the parent of a disk whose link is broken; `None` where it is not.
    fn parent_for(
        &self,
        index: &Index,
        candidates: &BTreeMap<Guid, Vec<String>>,
        disk: &Path,
    ) -> Result<Option<String>> {
        let Some(link) = layer_file::info(disk)?.parent else { return Ok(None) };
        let name = link.base_name();
        if let Some(name) = &name {
            let here = index.by_file(name).map(|layer| &layer.file);
            let all = candidates.iter().filter(|(guid, _)| link.accepts(**guid));
            if all.flat_map(|(_, files)| files).any(|file| Some(file) == here) {
                return Ok(None);
            }
            // Another program's checkpoint stands on the disk beside it.
            if here.is_none() && self.parent_beside(index, disk, name)?.is_some() {
                return Ok(None);
            }
        }
        let changed = name.as_deref().and_then(|name| index.by_file(name)).map(|it| &*it.file);
        choose(&link, name.as_deref(), candidates, disk, changed).map(Some)
    }

    /// Links disks, each by itself; what has begun is finished at the next start.
    fn link_all(&self, index: &mut Index, links: Vec<Link>, repaired: &mut Repaired) -> Result<()> {
        if links.is_empty() {
            return Ok(());
        }
        let intent = Intent::Relink { links: links.clone() };
        let work = self.journal.begin_with(LayerGuid::random(), &intent, [])?;
        for link in links {
            match self.link(index, &link) {
                Ok(()) => repaired.linked.push(Relinked { disk: link.disk, parent: link.parent }),
                Err(error) => {
                    repaired.broken.push(Broken { disk: link.disk, reason: words(&error) });
                }
            }
        }
        work.end()
    }

    /// Does what [`Intent::Relink`] says, as far as it can be done, and strikes it out.
    pub(crate) fn finish_links(
        &self,
        index: &mut Index,
        work: &Work,
        links: &[Link],
    ) -> Result<()> {
        for link in links {
            if let Err(error) = self.link(index, link) {
                let error = crate::error::chain(&error).to_string();
                tracing::warn!(disk = link.disk, error, "a link that is broken still");
            }
        }
        work.end()
    }

    fn link(&self, index: &mut Index, link: &Link) -> Result<()> {
        let disk = self.places.root.join(&link.disk);
        let parent = self.image_path(&link.parent);
        let verify = if link.force { Verify::Force } else { Verify::Identity };
        let folder = std::slice::from_ref(&self.places.images);
        if disk.parent() != Some(&self.places.images) {
            let locator = names::scratch_locator(self.places.images_name(), &link.parent);
            return layer_file::relink(&disk, &parent, folder, locator, verify);
        }
        // It is read-only for everyone, and is so again whatever happens.
        durable::unprotect(&disk)?;
        let locator = names::sibling_locator(&link.parent);
        let linked = layer_file::relink(&disk, &parent, folder, locator, verify);
        let protected = durable::protect(&disk);
        linked.and(protected)?;
        if let Some(file) = disk.file_name().and_then(|name| name.to_str()) {
            index.insert(self.load(file)?);
        }
        Ok(())
    }

    fn relative(&self, disk: &Path) -> String {
        disk.strip_prefix(&self.places.root).unwrap_or(disk).display().to_string()
    }
}

/// What people type to say it.
const SAY_WHICH: &str = "ireko image repair IMAGE|CONTAINER --parent IMAGE";

/// Chooses among the files that have the bytes a child was made over; `changed` is called as its parent
/// and has others.
fn choose(
    link: &ParentLink,
    name: Option<&str>,
    candidates: &BTreeMap<Guid, Vec<String>>,
    disk: &Path,
    changed: Option<&str>,
) -> Result<String> {
    let fitting = candidates.iter().filter(|(guid, _)| link.accepts(**guid));
    let own = disk.file_name().and_then(|name| name.to_str());
    let fitting: Vec<_> =
        fitting.flat_map(|(_, files)| files).filter(|file| Some(file.as_str()) != own).collect();
    let key = |file: &str| names::parse_disk_file(file).map(|(_, guid)| guid);
    let wanted = name.and_then(key);
    let by_key = fitting.iter().find(|file| wanted.is_some() && key(file) == wanted);
    match (by_key, fitting.as_slice()) {
        (Some(file), _) | (None, [file]) => Ok((*file).clone()),
        (None, []) => Err(match (changed, name) {
            (Some(file), _) => Error::corrupt(format!(
                "its parent {file} is another disk now, or its data changed since"
            ))
            .hint(format!(
                "put the file back as it was; {SAY_WHICH} --force links it to the one that is \
                 there, and what it does not hold itself may be garbage then"
            )),
            (None, name) => {
                let called = name.map(|name| format!(", once called {name}")).unwrap_or_default();
                Error::corrupt(format!("no file in images/ is its parent{called}")).hint(format!(
                    "put that file back into images/, or name another with the same content: \
                     {SAY_WHICH}"
                ))
            }
        }),
        (None, several) => {
            let names: Vec<_> = several.iter().map(|file| file.as_str()).collect();
            Err(Error::conflict(format!("several files may be its parent: {}", names.join(", ")))
                .hint(format!("say which: {SAY_WHICH}")))
        }
    }
}

fn words(error: &Error) -> String {
    match error.remedy() {
        Some(remedy) => format!("{} ({remedy})", crate::error::chain(error)),
        None => crate::error::chain(error).to_string(),
    }
}
