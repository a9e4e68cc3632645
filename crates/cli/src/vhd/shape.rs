//! What a new file looks like inside, as options say it.

use super::format::FormatName;
use crate::error::{Error, Result};
use crate::quantity;
use ireko_disk::vhdx::{self, Provision};
use ireko_disk::{Disk, NewDisk};

/// What a new file looks like inside.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Shape {
    /// Give every block its place in the file at once
    #[arg(long)]
    pub fixed: bool,

    /// As --fixed, and take the host's space too, so that writing cannot run out of it
    #[arg(long)]
    pub preallocate: bool,

    /// Unit in which the file takes space: 1m to 256m (default 32m; 2m over a parent)
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes)]
    pub block_size: Option<u64>,

    /// Logical sector size: 512 or 4096 bytes
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes)]
    pub sector: Option<u64>,
}

impl Shape {
    /// The block size in bytes, where one was given.
    pub fn block_size(&self) -> Result<Option<u32>> {
        block_size(self.block_size)
    }

    /// The logical sector in bytes, where one was given.
    fn sector(&self) -> Result<Option<u32>> {
        narrow("--sector", self.sector)
    }

    /// When blocks are to get their place.
    fn provision(&self) -> Provision {
        match (self.fixed, self.preallocate) {
            (false, false) => Provision::Dynamic,
            (_, preallocate) => Provision::Fixed { preallocate },
        }
    }

    /// Overrides what was said of a new VHDX file.
    pub fn apply(&self, options: &mut vhdx::CreateOptions) -> Result<()> {
        options.provision = self.provision();
        if let Some(block_size) = self.block_size()? {
            options.block_size = block_size;
        }
        if let Some(sector) = self.sector()? {
            options.logical_sector = sector;
        }
        Ok(())
    }

    /// A new disk of this format and a disk's size and sectors; the rest as was said.
    pub fn new_disk_like(&self, format: FormatName, disk: &dyn Disk) -> Result<NewDisk> {
        let mut new = NewDisk::like(format.into(), disk.geometry());
        match &mut new {
            NewDisk::Vhdx(options) => self.apply(options)?,
            NewDisk::Raw => self.refuse_for_raw()?,
        }
        Ok(new)
    }

    /// Refuses what a raw file does not have.
    pub fn refuse_for_raw(&self) -> Result<()> {
        match self.block_size.or(self.sector).is_some() || self.preallocate {
            false => Ok(()),
            true => Err(Error::usage("a raw file has no blocks, sectors or space to choose")),
        }
    }
}

/// A block size in bytes as VHDX has it.
pub fn block_size(bytes: Option<u64>) -> Result<Option<u32>> {
    narrow("--block-size", bytes)
}

fn narrow(option: &str, bytes: Option<u64>) -> Result<Option<u32>> {
    let narrow = |bytes: u64| {
        u32::try_from(bytes).map_err(|_| Error::usage(format!("{option} is too large: {bytes}")))
    };
    bytes.map(narrow).transpose()
}
