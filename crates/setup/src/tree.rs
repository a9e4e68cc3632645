//! A file tree in memory, written as a tar archive that depends on nothing but its content.

use std::collections::BTreeMap;
use std::io;

/// Paths are relative, without `.` and `..`; the archive is sorted by them.
pub(crate) struct Tree {
    entries: BTreeMap<String, Entry>,
    modified: u64,
}

enum Entry {
    Folder { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

impl Tree {
    /// `modified` is the time of every entry, in seconds since 1970.
    pub fn new(modified: u64) -> Self {
        Self { entries: BTreeMap::new(), modified }
    }

    pub fn folder(&mut self, path: &str, mode: u32) {
        self.entries.insert(path.to_owned(), Entry::Folder { mode });
    }

    pub fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.entries.insert(path.to_owned(), Entry::File { mode, content });
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.entries.insert(path.to_owned(), Entry::Link { target: target.to_owned() });
    }

    /// Returns the archive; everything in it belongs to root.
    pub fn to_tar(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(self.modified);
            header.set_uid(0);
            header.set_gid(0);
            header.set_username("root")?;
            header.set_groupname("root")?;
            header.set_size(0);
            match entry {
                Entry::Folder { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Entry::File { mode, content } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    archive.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        archive.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(order: [&str; 3]) -> Tree {
        let mut tree = Tree::new(7);
        for path in order {
            match path {
                "tmp" => tree.folder("tmp", 0o1777),
                "tmp/a" => tree.file("tmp/a", 0o640, b"content".to_vec()),
                _ => tree.link(path, "tmp/a"),
            }
        }
        tree
    }

    #[test]
    fn equal_content_gives_equal_bytes() {
        let one = tree(["tmp", "tmp/a", "zlink"]).to_tar().unwrap();
        assert_eq!(one, tree(["zlink", "tmp/a", "tmp"]).to_tar().unwrap());
    }

    #[test]
    fn modes_owners_times_and_targets_are_in_the_archive() {
        let bytes = tree(["tmp", "tmp/a", "zlink"]).to_tar().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let listed: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 7));
                let path = entry.path().unwrap().display().to_string();
                let target = entry.link_name().unwrap().map(|t| t.display().to_string());
                (path, header.mode().unwrap(), header.size().unwrap(), target)
            })
            .collect();
        assert_eq!(
            listed,
            [
                ("tmp/".to_owned(), 0o1777, 0, None),
                ("tmp/a".to_owned(), 0o640, 7, None),
                ("zlink".to_owned(), 0o777, 0, Some("tmp/a".to_owned())),
            ]
        );
    }
}
