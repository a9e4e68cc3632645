//! The parts of the base image: its file tree, and the empty disk every app image starts from.
//!
//! Which layer they become is the engine's business: it applies the tree to a child of the disk
//! inside a utility VM, on first use.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::apt::{Apt, Unpacked};
use crate::base_files;
use crate::cache::FilledCache;
use crate::durable;
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest, NotWhole};
use crate::progress::Step;
use crate::root_disk;

/// Raise it whenever the files are made in another way.
pub(crate) const RECIPE: u32 = 2;
/// What the packages take while they are unpacked, with room to grow.
const WORK_BYTES: u64 = 100_000_000;
const FILES: &str = "rootfs.tar";
const DISK: &str = "root.vhdx";

/// Returns the version of busybox that the base image is made from, if it is whole.
pub(crate) fn find(cache: &Path) -> std::result::Result<String, NotWhole> {
    Manifest::read_whole(&cache.join("base"), RECIPE).map(|manifest| manifest.version)
}

/// Makes both parts and puts them in place; returns the version of busybox.
pub(crate) fn make(cache: &FilledCache, progress: &mut dyn FnMut(Step)) -> Result<String> {
    let work = cache.work_folder(WORK_BYTES)?;
    let packages = Apt::new(work.path(), progress).with_fresh_lists_if_needed(fetch_packages)?;
    let version = packages[0].stanza.version.clone();

    let new = work.path().join("base");
    fs::create_dir(&new).map_err(Error::io("make the base image's folder"))?;
    let tar = base_files::build(&packages)?
        .to_tar()
        .map_err(Error::io("write the base image's file tree"))?;
    durable::write_new(&new.join(FILES), &tar)?;
    root_disk::make(&new.join(DISK), work.path())?;
    let made_from: BTreeMap<_, _> = packages
        .iter()
        .map(|unpacked| (unpacked.stanza.package.clone(), unpacked.stanza.version.clone()))
        .collect();
    let manifest = Manifest::of_files(&new, &[FILES, DISK], RECIPE, &version, made_from)?;
    put_in_place(&new, &cache.root().join("base"), &manifest)?;
    Ok(version)
}

/// File by file, since others keep files of theirs in that folder.
///
/// The old manifest goes first and the new one comes last: without one the parts do not count.
fn put_in_place(new: &Path, place: &Path, manifest: &Manifest) -> Result<()> {
    fs::create_dir_all(place).map_err(Error::io("make the base image's folder"))?;
    let old = place.join(manifest::FILE_NAME);
    if old.exists() {
        fs::remove_file(&old).map_err(Error::io("replace the base image"))?;
        durable::sync_folder(place)?;
    }
    for name in manifest.files.keys() {
        durable::move_file(&new.join(name), &place.join(name))?;
    }
    manifest.write(place)
}

/// busybox first, then what it depends on.
fn fetch_packages(apt: &mut Apt) -> Result<Vec<Unpacked>> {
    let busybox = apt.first_known(&["busybox"])?;
    let mut packages = vec![apt.fetch(&busybox)?];
    for name in &busybox.depends {
        let stanza = apt.first_known(&[name])?;
        packages.push(apt.fetch(&stanza)?);
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_the_parts_leaves_the_files_of_others() {
        let place = tempfile::tempdir().unwrap();
        let base = place.path().join("base");
        for content in ["one", "two!"] {
            let new = place.path().join("new");
            fs::create_dir(&new).unwrap();
            durable::write_new(&new.join(FILES), content.as_bytes()).unwrap();
            let manifest =
                Manifest::of_files(&new, &[FILES], RECIPE, content, BTreeMap::new()).unwrap();
            put_in_place(&new, &base, &manifest).unwrap();
            fs::write(base.join("base.json"), "the engine's").unwrap();
            fs::remove_dir(&new).unwrap();
        }
        assert_eq!(find(place.path()), Ok("two!".to_owned()));
        assert!(base.join("base.json").exists());
    }
}
