//! Which files a disk is, and how they are opened.

use super::format::FormatName;
use crate::error::{Error, Result};
use ireko_disk::{Access, Chain, Disk, ErrorKind, Format, find_chain};
use std::path::{Path, PathBuf};

/// How a disk file is to be understood.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Source {
    /// Format of the file, where its content does not tell: vhdx, vhd or raw
    #[arg(short, long, value_name = "format")]
    format: Option<FormatName>,

    #[command(flatten)]
    pub parents: Parents,
}

/// Where parents are.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Parents {
    /// Another folder in which parents may be; they are looked for beside each child first
    #[arg(long = "parent-dir", value_name = "dir")]
    folders: Vec<PathBuf>,
}

impl Source {
    /// The file's format: as said, else as its content has it, else raw where the name says so.
    pub fn format_of(&self, file: &Path) -> Result<Format> {
        if let Some(name) = self.format {
            return Ok(name.into());
        }
        match Format::of_file(file) {
            Err(error) if error.kind() == ErrorKind::Corrupt && FormatName::is_raw(file) => {
                Ok(Format::Raw)
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Err(failed("cannot open", file)(error)
                    .hint("--format raw takes any file's bytes as a disk"))
            }
            outcome => outcome.map_err(failed("cannot open", file)),
        }
    }

    /// The size of the virtual disk in bytes.
    pub fn size_of(&self, file: &Path) -> Result<u64> {
        Ok(self.open(file, Access::ReadOnly)?.geometry().virtual_size)
    }

    /// Opens a file with all its parents as one disk.
    pub fn open(&self, file: &Path, access: Access) -> Result<Chain> {
        match self.format_of(file)? {
            Format::Raw => {
                Chain::open_as(file, Format::Raw, access).map_err(failed("cannot open", file))
            }
            _ => {
                let paths = self.parents.of(file)?;
                Chain::open(&paths, access).map_err(failed("cannot open", file))
            }
        }
    }

    /// Opens a disk for reading whatever its checksums say. Where the parents are not found, the file alone is tried.
    pub fn open_damaged(&self, file: &Path) -> Result<Chain> {
        let paths =
            find_chain(file, &self.parents.folders).unwrap_or_else(|_| vec![file.to_owned()]);
        Chain::open_ignoring_checksums(&paths).map_err(failed("cannot open", file))
    }
}

impl Parents {
    /// The files of the disk at `file`, leaf first.
    pub fn of(&self, file: &Path) -> Result<Vec<PathBuf>> {
        find_chain(file, &self.folders).map_err(|error| {
            let elsewhere = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ParentMismatch);
            let missing = file.try_exists().is_ok_and(|there| !there);
            let error = failed("cannot open", file)(error);
            match elsewhere && !missing {
                true => error.hint("--parent-dir DIR names another folder to look in"),
                false => error,
            }
        })
    }

    /// Where else than beside a child its parent may be.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }
}

/// Says what could not be done to which file; adds what helps, where that is known.
pub fn failed(doing: &str, file: &Path) -> impl FnOnce(ireko_disk::Error) -> Error {
    let message = format!("{doing} {}", crate::table::printable(&file.display().to_string()));
    move |error| {
        let kind = error.kind();
        let error = Error::local(message).because(error);
        match kind {
            ErrorKind::InUse => error.hint("stop the container or program that has it open"),
            ErrorKind::DataLoss => error.hint("--allow-loss cuts it off"),
            ErrorKind::NoSpace => error.hint("make room on the file system and try again"),
            _ => error,
        }
    }
}
