//! A cpio archive in the format the kernel unpacks as its first root file system.
//!
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst` ("newc").

/// Writes an archive into memory; times and owners are zero, so equal content gives equal bytes.
pub(crate) struct CpioWriter {
    bytes: Vec<u8>,
    inode: u32,
}

impl CpioWriter {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), inode: 0 }
    }

    /// Adds a folder; its parents must have been added before.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    /// Adds a plain file with mode 0644.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, 0o100_644, content);
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = u32::MAX;
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inode = self.inode.wrapping_add(1);
        let links = if mode & 0o040_000 == 0 { 1 } else { 2 };
        let (name_size, size) = (path.len() as u32 + 1, content.len() as u32);
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0]
            .map(|field| format!("{field:08x}"));
        self.bytes.extend(b"070701");
        self.bytes.extend(fields.concat().as_bytes());
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn gnu_cpio_reads_back_what_was_written() {
        let mut archive = CpioWriter::new();
        archive.folder("modules");
        archive.file("modules/00-a.ko", b"twelve bytes");
        archive.file("modules/01-b.ko", b"odd");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);

        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("cpio")
            .args(["-i", "--quiet"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: cpio is not installed");
            return;
        };
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(child.wait().unwrap().success());
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("modules/00-a.ko"), b"twelve bytes");
        assert_eq!(read("modules/01-b.ko"), b"odd");
    }
}
