//! Choosing the kernel modules a utility VM loads, and their order.
//!
//! Dependencies are read from the modules themselves (`depends=` and `softdep=` in their
//! `.modinfo`): packages do not carry `modules.dep`, which is made when a kernel is installed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::compression::decompress;
use crate::elf;
use crate::error::{Error, Result};

const MAX_MODULE: usize = 64 << 20;

/// What the agent needs before it can mount its root and answer, and what later mounts need.
///
/// Kept short: under emulation each module costs some 15 ms of a cold start.
pub(crate) const WANTED: &[Wanted] = &[
    Wanted::needed("virtio_pci"),
    Wanted::needed("virtio_console"),
    Wanted::needed("virtio_blk"),
    // ext4 asks for it by the name of the algorithm, which no dependency shows; later kernels
    // have it as a library.
    Wanted::if_there("crc32c_generic"),
    Wanted::if_there("crc32c_intel"),
    Wanted::needed("ext4"),
    Wanted::needed("virtio_net"),
    Wanted::needed("9pnet_virtio"),
    Wanted::needed("9p"),
    Wanted::needed("overlay"),
];

/// A module by name, `-` and `_` being the same.
pub(crate) struct Wanted {
    name: &'static str,
    needed: bool,
}

impl Wanted {
    const fn needed(name: &'static str) -> Self {
        Self { name, needed: true }
    }

    const fn if_there(name: &'static str) -> Self {
        Self { name, needed: false }
    }
}

/// A module ready to be loaded.
pub(crate) struct Module {
    pub name: String,
    /// The plain ELF file.
    pub bytes: Vec<u8>,
}

/// All modules of one kernel.
pub(crate) struct ModuleTree {
    files: HashMap<String, PathBuf>,
    builtin: HashSet<String>,
}

impl ModuleTree {
    /// Reads what is below each of `folders`: `lib/modules/<release>` of the kernel's packages.
    pub fn open(folders: &[PathBuf]) -> Result<Self> {
        let mut tree = Self { files: HashMap::new(), builtin: HashSet::new() };
        for folder in folders {
            tree.add_files(folder)?;
            if let Ok(list) = fs::read_to_string(folder.join("modules.builtin")) {
                tree.builtin.extend(list.lines().filter_map(|line| module_name(Path::new(line))));
            }
        }
        Ok(tree)
    }

    fn add_files(&mut self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).map_err(Error::io("list the kernel's modules"))? {
            let entry = entry.map_err(Error::io("list the kernel's modules"))?;
            let kind = entry.file_type().map_err(Error::io("list the kernel's modules"))?;
            if kind.is_dir() {
                self.add_files(&entry.path())?;
            } else if let Some(name) = module_name(&entry.path()) {
                self.files.insert(name, entry.path());
            }
        }
        Ok(())
    }

    /// Returns the wanted modules and all they depend on, each after what it depends on.
    ///
    /// # Errors
    /// `Malformed` when a needed module, or one that another depends on, is neither a file nor
    /// built into the kernel.
    pub fn load_order(&self, wanted: &[Wanted]) -> Result<Vec<Module>> {
        let mut order = Order { tree: self, seen: HashSet::new(), modules: Vec::new() };
        for Wanted { name, needed } in wanted {
            order.add(name, *needed)?;
        }
        Ok(order.modules)
    }
}

struct Order<'a> {
    tree: &'a ModuleTree,
    seen: HashSet<String>,
    modules: Vec<Module>,
}

impl Order<'_> {
    fn add(&mut self, name: &str, needed: bool) -> Result<()> {
        let name = normal(name);
        if self.tree.builtin.contains(&name) || !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let Some(path) = self.tree.files.get(&name) else {
            return match needed {
                true => Err(Error::malformed(format!("the kernel package has no module {name}"))),
                false => Ok(()),
            };
        };
        let packed = fs::read(path).map_err(Error::io(format!("read module {name}")))?;
        let bytes = decompress(&packed, MAX_MODULE)?;
        for (dependency, needed) in dependencies(&elf::module_info(&bytes)?) {
            self.add(&dependency, needed)?;
        }
        self.modules.push(Module { name, bytes });
        Ok(())
    }
}

/// What must (`depends`) or may (`softdep: pre`) be loaded first.
fn dependencies(info: &[(String, String)]) -> Vec<(String, bool)> {
    let mut names = Vec::new();
    for (key, value) in info {
        match key.as_str() {
            "depends" => {
                names.extend(
                    value.split(',').filter(|n| !n.is_empty()).map(|n| (n.to_owned(), true)),
                );
            }
            "softdep" => {
                let before = value.split_once("pre:").map_or("", |(_, after)| after);
                let before = before.split("post:").next().unwrap_or_default();
                names.extend(before.split_whitespace().map(|n| (n.to_owned(), false)));
            }
            _ => {}
        }
    }
    names
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The module's name from a path as `kernel/fs/ext4/ext4.ko.xz`; `None` for other files.
fn module_name(path: &Path) -> Option<String> {
    let (name, ending) = path.file_name()?.to_str()?.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&ending).then(|| normal(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_come_from_file_names_whatever_their_compression() {
        let name = |path: &str| module_name(Path::new(path));
        assert_eq!(name("kernel/arch/x86/crypto/crc32c-intel.ko").as_deref(), Some("crc32c_intel"));
        assert_eq!(name("fs/ext4/ext4.ko.zst").as_deref(), Some("ext4"));
        assert_eq!(name("modules.builtin"), None);
        assert_eq!(name("x.kok"), None);
    }

    #[test]
    fn dependencies_are_the_hard_ones_and_the_soft_ones_before() {
        let info = [
            ("depends", "jbd2,mbcache"),
            ("softdep", "pre: crc32c  post: later"),
            ("name", "ext4"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(
            dependencies(&info),
            [("jbd2".to_owned(), true), ("mbcache".to_owned(), true), ("crc32c".to_owned(), false)]
        );
        assert_eq!(dependencies(&[("depends".to_owned(), String::new())]), []);
    }

    /// A relocatable ELF file whose only content is `.modinfo`.
    fn module(info: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        for half in [1u16, 62] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1u32.to_le_bytes());
        let sections_at = 64 + info.len() + names.len();
        for word in [0, 0, sections_at as u64] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 0, 0, 64, 3, 2] {
            file.extend(half.to_le_bytes());
        }
        file.extend(info);
        file.extend(names);
        let mut section = |name: u32, kind: u32, offset: usize, size: usize| {
            file.extend(name.to_le_bytes());
            file.extend(kind.to_le_bytes());
            for word in [0, 0, offset as u64, size as u64, 0, 0, 0] {
                file.extend(word.to_le_bytes());
            }
        };
        section(0, 0, 0, 0);
        section(1, 1, 64, info.len());
        section(10, 3, 64 + info.len(), names.len());
        file
    }

    fn tree_of(modules: &[(&str, &str)], builtin: &str) -> (tempfile::TempDir, ModuleTree) {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("kernel/fs");
        fs::create_dir_all(&files).unwrap();
        for (name, depends) in modules {
            let bytes = module(format!("license=GPL\0depends={depends}\0").as_bytes());
            fs::write(
                files.join(format!("{name}.ko.zst")),
                zstd::encode_all(&bytes[..], 1).unwrap(),
            )
            .unwrap();
        }
        fs::write(folder.path().join("modules.builtin"), builtin).unwrap();
        let tree = ModuleTree::open(&[folder.path().to_owned()]).unwrap();
        (folder, tree)
    }

    #[test]
    fn each_module_comes_once_and_after_what_it_depends_on() {
        let (_folder, tree) = tree_of(
            &[("a", "b-x,c"), ("b-x", "d"), ("c", "d,kept_in"), ("d", "")],
            "kernel/kept-in.ko\n",
        );
        let order = tree.load_order(&[Wanted::needed("a"), Wanted::needed("c")]).unwrap();
        assert_eq!(
            order.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
            ["d", "b_x", "c", "a"]
        );
        assert!(order[0].bytes.starts_with(b"\x7fELF"));
    }

    #[test]
    fn a_missing_module_is_an_error_only_where_it_is_needed() {
        let (_folder, tree) = tree_of(&[("a", "")], "");
        assert_eq!(
            tree.load_order(&[Wanted::if_there("z"), Wanted::needed("a")]).unwrap().len(),
            1
        );
        assert!(tree.load_order(&[Wanted::needed("z")]).is_err());
    }

    #[test]
    fn modules_that_name_each_other_end() {
        let (_folder, tree) = tree_of(&[("a", "b"), ("b", "a")], "");
        assert_eq!(tree.load_order(&[Wanted::needed("a")]).unwrap().len(), 2);
    }
}
