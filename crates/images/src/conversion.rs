//! What another program has to convert: formats that are not read or written here.
//!
//! ```text
//!   a stranger's disk, vetted ──► folder/disk ──► taken over as a VHDX      an import
//!   our own raw file          ──► folder/disk ──► taken over as it is       an export
//! ```
//!
//! Who converts, and behind which walls, is the caller's affair; what comes of it is looked at here.

use crate::error::{During, Error, Result};
use crate::recognise::DiskFormat;
use crate::{copy, durable};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// How far an import or an export could be brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It is all there.
    Whole,
    /// Another program has to convert it first.
    ToConvert(Conversion),
}

/// What a program that knows a format has to do. The source names no other file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// The one file to read.
    pub source: PathBuf,
    /// Its format.
    pub from: DiskFormat,
    /// The one folder to write to; it is there and empty.
    pub folder: PathBuf,
    /// The file to make in it.
    pub target: PathBuf,
    /// Its format.
    pub to: DiskFormat,
    /// Bytes a guest sees.
    pub virtual_size: u64,
    /// Bytes that may be written.
    pub room: u64,
}

impl Conversion {
    /// Makes the folder, and says what is to be made in it.
    pub(crate) fn plan(
        (source, from): (&Path, DiskFormat),
        (folder, to): (&Path, DiskFormat),
        virtual_size: u64,
    ) -> Result<Conversion> {
        durable::make_folder(folder)?;
        let (source, folder) = (source.to_owned(), folder.to_owned());
        let (target, room) = (made(&folder), copy::room(&made(&folder))?);
        Ok(Conversion { source, from, folder, target, to, virtual_size, room })
    }
}

fn made(folder: &Path) -> PathBuf {
    folder.join("disk")
}

/// Takes over what a program made, synced, if one had to; nothing but a plain file is taken.
pub(crate) fn take_converted(folder: &Path, to: &Path) -> Result<()> {
    if !durable::exists(folder)? {
        return Ok(());
    }
    let made = made(folder);
    let looking = || format!("look at {}", made.display());
    if !fs::symlink_metadata(&made).during(looking)?.is_file() {
        return Err(Error::corrupt("the converter made something that is no file"));
    }
    File::open(&made).and_then(|file| file.sync_all()).during(looking)?;
    durable::rename(&made, to)
}
