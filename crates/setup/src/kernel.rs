//! The guest kernel: the distribution's own, unpacked for the guest and never installed.
//!
//! ```text
//!   linux-image package ─┬─ boot/vmlinuz ─► vmlinux (PVH)      ┐
//!                        └─ modules ─► NN-name.ko, load order  ├─► kernel/<version>/
//!                                      modules.cpio            ┘   kernel/current names it
//! ```
//!
//! The generic kernel is taken, not the cloud one: it has 9p and VM generation ids.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::{Apt, Stanza, Unpacked};
use crate::bzimage::extract_vmlinux;
use crate::cache::FilledCache;
use crate::cpio::CpioWriter;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{Manifest, NotWhole};
use crate::modules::{Module, ModuleTree, WANTED};
use crate::progress::Step;

/// Raise it whenever the files are made in another way, above all when `WANTED` changes.
pub(crate) const RECIPE: u32 = 1;
/// What the kernel packages take while they are unpacked, with room to grow.
const WORK_BYTES: u64 = 800_000_000;
/// What stands for "the current generic kernel": Debian's name, Ubuntu's name.
const META_PACKAGES: [&str; 2] = ["linux-image-amd64", "linux-image-generic"];
const CURRENT: &str = "current";

/// Returns the version of the kernel that is in use, if it is whole.
pub(crate) fn find(cache: &Path) -> std::result::Result<String, NotWhole> {
    let kernels = cache.join("kernel");
    let current = fs::read_to_string(kernels.join(CURRENT)).map_err(|_| NotWhole::Absent)?;
    let current = current.trim();
    if current != folder_name(current) {
        return Err(NotWhole::Damaged("kernel/current names no folder".to_owned()));
    }
    Manifest::read_whole(&kernels.join(current), RECIPE).map(|_| current.to_owned())
}

/// Fetches the newest kernel and puts it in use; returns its version.
pub(crate) fn make(cache: &FilledCache, progress: &mut dyn FnMut(Step)) -> Result<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("no guest kernel for {} hosts", std::env::consts::ARCH),
        ));
    }
    let work = cache.work_folder(WORK_BYTES)?;
    let packages = Apt::new(work.path(), progress).with_fresh_lists_if_needed(fetch_packages)?;
    let (vmlinux, modules) = read_packages(&packages)?;

    let version = folder_name(&format!(
        "{}_{}",
        packages[0].stanza.package.trim_start_matches("linux-image-"),
        packages[0].stanza.version
    ));
    let folder = work.path().join("kernel");
    fs::create_dir(&folder).map_err(Error::io("make the kernel's folder"))?;
    durable::write_new(&folder.join("vmlinux"), &vmlinux)?;
    durable::write_new(&folder.join("modules.cpio"), &archive(&modules))?;
    let made_from: BTreeMap<_, _> = packages
        .iter()
        .map(|unpacked| (unpacked.stanza.package.clone(), unpacked.stanza.version.clone()))
        .collect();
    Manifest::of_files(&folder, &["vmlinux", "modules.cpio"], RECIPE, &version, made_from)?
        .write(&folder)?;

    let kernels = cache.root().join("kernel");
    fs::create_dir_all(&kernels).map_err(Error::io("make the kernels' folder"))?;
    durable::move_folder(&folder, &kernels.join(&version))?;
    durable::replace_file(&kernels.join(CURRENT), format!("{version}\n").as_bytes())?;
    Ok(version)
}

/// The image first, then packages with more of its modules, which Ubuntu ships apart.
fn fetch_packages(apt: &mut Apt) -> Result<Vec<Unpacked>> {
    let meta = apt.first_known(&META_PACKAGES)?;
    let image = image_package(&meta).ok_or_else(|| {
        Error::malformed(format!("package {} depends on no kernel image", meta.package))
    })?;
    let image = apt.first_known(&[image])?;
    let mut packages = vec![apt.fetch(&image)?];
    let more = meta.depends.iter().chain(&image.depends);
    for name in more.filter(|name| name.starts_with("linux-modules-")) {
        let stanza = apt.first_known(&[name])?;
        packages.push(apt.fetch(&stanza)?);
    }
    Ok(packages)
}

fn image_package(meta: &Stanza) -> Option<&str> {
    meta.depends.iter().map(String::as_str).find(|name| {
        name.strip_prefix("linux-image-")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

fn read_packages(packages: &[Unpacked]) -> Result<(Vec<u8>, Vec<Module>)> {
    let boot = packages[0].root.join("boot");
    let image = children(&boot)?
        .into_iter()
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
        .ok_or_else(|| Error::malformed("the kernel package has no boot/vmlinuz"))?;
    let image = fs::read(&image).map_err(Error::io("read the kernel image"))?;
    let vmlinux = extract_vmlinux(&image)?;

    let mut folders = Vec::new();
    for package in packages {
        for place in ["lib/modules", "usr/lib/modules"] {
            let place = package.root.join(place);
            if place.is_dir() {
                folders.extend(children(&place)?);
            }
        }
    }
    let modules = ModuleTree::open(&folders)?.load_order(WANTED)?;
    Ok((vmlinux, modules))
}

/// The agent loads what it finds in `/modules`, in the order of the names.
fn archive(modules: &[Module]) -> Vec<u8> {
    let mut archive = CpioWriter::new();
    archive.folder("modules");
    for (position, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{position:02}-{}.ko", module.name), &module.bytes);
    }
    archive.finish()
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let doing = || Error::io(format!("list {}", folder.display()));
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(doing())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()
        .map_err(doing())?;
    paths.sort();
    Ok(paths)
}

/// A package version as a file name: epochs and tildes become underscores.
fn folder_name(version: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-_".contains(c);
    let name: String = version.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    name.trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_the_one_the_meta_package_depends_on() {
        let meta = |depends: &[&str]| Stanza {
            depends: depends.iter().map(|name| (*name).to_owned()).collect(),
            ..Stanza::default()
        };
        let ubuntu =
            meta(&["linux-modules-extra-6.8.0-31-generic", "linux-image-6.8.0-31-generic"]);
        assert_eq!(image_package(&ubuntu), Some("linux-image-6.8.0-31-generic"));
        assert_eq!(image_package(&meta(&["linux-image-cloud-amd64", "linux-base"])), None);
    }

    #[test]
    fn versions_become_safe_folder_names() {
        assert_eq!(folder_name("6.1.0-56-amd64_1:6.1~rc2-1"), "6.1.0-56-amd64_1_6.1_rc2-1");
        assert_eq!(folder_name("../up"), "_up");
    }

    #[test]
    fn a_current_that_leads_out_of_the_cache_is_not_followed() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir(cache.path().join("kernel")).unwrap();
        fs::write(cache.path().join("kernel/current"), "../../etc\n").unwrap();
        assert!(matches!(find(cache.path()), Err(NotWhole::Damaged(_))));
    }
}
