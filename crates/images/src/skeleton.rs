//! A layer's tar without the files' bytes, from which it can be made again: these are on the layer's disk.
//!
//! ```text
//!   tar:        header ─ bytes of a file ─ padding, header ─ bytes ─ padding, end
//!   skeleton:   literal     (path, size)       literal      (path, size)  literal      compressed
//! ```
//! Whoever makes a tar of it compares its digest: of a tar that has a path twice only the second is on the disk.

use crate::error::{During, Error, Result};
use ireko_tar::{Archive, Kind};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// What a skeleton begins with; another number for another form.
const MAGIC: &[u8; 16] = b"ireko skeleton 1";
const LITERAL: u8 = 1;
const CONTENT: u8 = 2;
const END: u8 = 0;
/// The longest literal of one record.
const PIECE: u64 = 256 << 10;
/// The longest path.
const MAX_PATH: usize = 4096;
const LEVEL: i32 = 6;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bone {
    /// Bytes as they stand in the tar.
    Literal(Vec<u8>),
    /// So many bytes of a file.
    Content {
        /// As the tar names it.
        path: Vec<u8>,
        /// In bytes.
        size: u64,
    },
}

/// Writes the skeleton of an uncompressed tar.
pub fn write_skeleton(tar: &Path, to: &Path) -> Result<()> {
    let reading = || format!("read {}", tar.display());
    let writing = || format!("write {}", to.display());
    let open = || File::open(tar).during(reading);
    let mut literals = open()?;
    let length = literals.metadata().during(reading)?.len();
    let file = File::create(to).during(writing)?;
    let mut out = zstd::Encoder::new(BufWriter::new(file), LEVEL).during(writing)?;
    out.write_all(MAGIC).during(writing)?;
    let source = Counted { inner: BufReader::with_capacity(256 << 10, open()?), count: 0 };
    let mut archive = Archive::new(source);
    let mut position = 0;
    while let Some(entry) = archive
        .next_entry()
        .map_err(|error| Error::bad_input(format!("{}: {error}", tar.display())))?
    {
        let is_plain = entry.kind == Kind::File && !entry.is_sparse() && entry.size > 0;
        if !is_plain || entry.path.len() > MAX_PATH {
            continue;
        }
        let at = archive.source().count;
        copy_literal(&mut literals, at.saturating_sub(position), &mut out).during(writing)?;
        out.write_all(&[CONTENT])
            .and_then(|()| out.write_all(&entry.size.to_le_bytes()))
            .and_then(|()| out.write_all(&(entry.path.len() as u16).to_le_bytes()))
            .and_then(|()| out.write_all(&entry.path))
            .during(writing)?;
        position = at.saturating_add(entry.size);
        literals.seek(SeekFrom::Start(position)).during(reading)?;
    }
    copy_literal(&mut literals, length.saturating_sub(position), &mut out).during(writing)?;
    out.write_all(&[END]).during(writing)?;
    let mut file = out.finish().during(writing)?;
    file.flush().and_then(|()| file.get_ref().sync_all()).during(writing)
}

fn copy_literal(from: &mut File, mut left: u64, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE as usize];
    while left > 0 {
        let count = left.min(PIECE) as usize;
        from.read_exact(&mut buffer[..count])?;
        to.write_all(&[LITERAL])?;
        to.write_all(&(count as u32).to_le_bytes())?;
        to.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(())
}

/// A skeleton, read record by record.
pub struct Skeleton {
    from: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Skeleton {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Skeleton").finish_non_exhaustive()
    }
}

impl Skeleton {
    /// Opens one.
    pub fn open(path: &Path) -> Result<Self> {
        let opening = || format!("open {}", path.display());
        let file = File::open(path).during(opening)?;
        let mut from = zstd::Decoder::new(file).during(opening)?;
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic).during(opening)?;
        match magic == *MAGIC {
            true => Ok(Self::of(from)),
            false => Err(Error::corrupt(format!("{} is no skeleton", path.display()))),
        }
    }

    /// One whose records come from here, without what stands before them.
    pub(crate) fn of(records: impl Read + Send + 'static) -> Self {
        Self { from: Box::new(records) }
    }

    /// The next record; `None` at the end. Errors where it is damaged or cut off.
    pub fn next_bone(&mut self) -> Result<Option<Bone>> {
        let reading = || "read a layer's skeleton".to_owned();
        let damaged = || Error::corrupt("a layer's skeleton is damaged");
        match u8::from_le_bytes(self.take().during(reading)?) {
            END => Ok(None),
            LITERAL => {
                let length = u32::from_le_bytes(self.take().during(reading)?);
                if u64::from(length) > PIECE {
                    return Err(damaged());
                }
                self.bytes(length as usize).map(|bytes| Some(Bone::Literal(bytes))).during(reading)
            }
            CONTENT => {
                let size = u64::from_le_bytes(self.take().during(reading)?);
                let length = usize::from(u16::from_le_bytes(self.take().during(reading)?));
                if length > MAX_PATH {
                    return Err(damaged());
                }
                let path = self.bytes(length).during(reading)?;
                Ok(Some(Bone::Content { path, size }))
            }
            _ => Err(damaged()),
        }
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// Counts what was read.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_is_its_skeleton_and_the_bytes_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let big = vec![3; 700_000];
        for (path, data) in [("a", &b"one"[..]), ("empty", b""), ("b/c", &big)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, path, data).unwrap();
        }
        let whole = builder.into_inner().unwrap();
        let (tar, to) = (folder.path().join("tar"), folder.path().join("skeleton"));
        std::fs::write(&tar, &whole).unwrap();
        write_skeleton(&tar, &to).unwrap();
        assert!(to.metadata().unwrap().len() < 1000);
        let mut skeleton = Skeleton::open(&to).unwrap();
        let (mut again, mut paths) = (Vec::new(), Vec::new());
        while let Some(bone) = skeleton.next_bone().unwrap() {
            match bone {
                Bone::Literal(bytes) => again.extend(bytes),
                Bone::Content { path, size } => {
                    let content = if path == b"a" { &b"one"[..] } else { &big };
                    assert_eq!(content.len() as u64, size);
                    again.extend(content);
                    paths.push(String::from_utf8(path).unwrap());
                }
            }
        }
        assert_eq!(paths, ["a", "b/c"]);
        assert!(again == whole);
        let bytes = std::fs::read(&to).unwrap();
        std::fs::write(&to, &bytes[..bytes.len() - 5]).unwrap();
        let read = || -> Result<()> {
            let mut cut = Skeleton::open(&to)?;
            while cut.next_bone()?.is_some() {}
            Ok(())
        };
        assert!(read().is_err(), "a skeleton that is cut off is an error");
    }
}
