//! Writing cpio archives of the kind the kernel unpacks as its first root file system.
//!
//! Archives may follow one another: each is padded to [`BLOCK`], and the kernel skips the zeros
//! between them. Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

/// Archives are padded to a multiple of this many bytes.
pub const BLOCK: usize = 512;

const REGULAR: u32 = 0o100000;
const TRAILER: &str = "TRAILER!!!";

/// An archive in the making. Every owner is root, every time 0: equal contents give equal bytes.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a file with these permission bits. `path` has no leading slash; the folder it lies in is
    /// there already. `content` is less than 4 GiB, which is the format's limit.
    ///
    /// # Panics
    /// Where `content` is larger.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | (permissions & 0o7777), content);
    }

    /// Ends the archive and returns its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.pad_to(BLOCK);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let inode = if path == TRAILER { 0 } else { self.next_inode() };
        let size = u32::try_from(content.len()).expect("a cpio entry holds less than 4 GiB");
        let name_size = path.len() as u32 + 1;
        // inode, mode, uid, gid, nlink, mtime, filesize, dev ×2, rdev ×2, namesize, check
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad_to(4);
        self.bytes.extend_from_slice(content);
        self.pad_to(4);
    }

    fn next_inode(&mut self) -> u32 {
        self.entries += 1;
        self.entries
    }

    fn pad_to(&mut self, multiple: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(multiple), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn the_cpio_program_reads_back_what_was_written() {
        let mut archive = Archive::default();
        archive.file("00-a.ko", 0o644, b"odd");
        archive.file("init", 0o755, b"#!/bin/true\n");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % BLOCK, 0);
        let lister = Command::new("cpio")
            .args(["--list", "--verbose", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut lister) = lister else {
            eprintln!("skipped: the cpio program is not installed");
            return;
        };
        lister.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listing = String::from_utf8(lister.wait_with_output().unwrap().stdout).unwrap();
        let seen: Vec<(&str, &str, &str)> = listing
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                (words[0], words[4], words[words.len() - 1])
            })
            .collect();
        assert_eq!(seen, [("-rw-r--r--", "3", "00-a.ko"), ("-rwxr-xr-x", "12", "init")]);
    }
}
