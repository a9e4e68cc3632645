//! What a new file looks like inside, as options say it.

use super::format::FormatName;
use crate::error::{Error, Result};
use crate::quantity;
use ireko_disk::{Disk, NewDisk, Provision, vhd, vhdx};

/// What a new file looks like inside.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Shape {
    /// Give every block its place in the file at once
    #[arg(long)]
    pub fixed: bool,

    /// As --fixed, and take the host's space too, so that writing cannot run out of it
    #[arg(long)]
    pub preallocate: bool,

    /// Unit in which the file takes space: 1m to 256m (default 2m; 32m for VHDX without parent)
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes)]
    pub block_size: Option<u64>,

    /// Logical sector size: 512 or 4096 bytes
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes)]
    pub sector: Option<u64>,
}

impl Shape {
    /// The block size in bytes, where nothing else was said: all that a differencing disk has to choose.
    pub fn only_block_size(&self) -> Result<Option<u32>> {
        if self.sector.is_some() {
            return Err(Error::usage("a differencing disk has its parent's sector size"));
        }
        match self.provision() {
            Provision::Dynamic => block_size(self.block_size),
            Provision::Fixed { .. } => Err(Error::usage("a differencing disk is never fixed")),
        }
    }

    /// When blocks are to get their place.
    fn provision(&self) -> Provision {
        match (self.fixed, self.preallocate) {
            (false, false) => Provision::Dynamic,
            (_, preallocate) => Provision::Fixed { preallocate },
        }
    }

    /// Overrides what was said of a new VHDX file.
    pub fn apply_to_vhdx(&self, options: &mut vhdx::CreateOptions) -> Result<()> {
        options.provision = self.provision();
        if let Some(block_size) = block_size(self.block_size)? {
            options.block_size = block_size;
        }
        if let Some(sector) = narrow("--sector", self.sector)? {
            options.logical_sector = sector;
        }
        Ok(())
    }

    /// Overrides what was said of a new VHD file.
    pub fn apply_to_vhd(&self, options: &mut vhd::CreateOptions) -> Result<()> {
        if self.sector.is_some_and(|sector| sector != 512) {
            return Err(Error::usage("a VHD file has sectors of 512 bytes; VHDX has others"));
        }
        options.provision = self.provision();
        if let Some(block_size) = block_size(self.block_size)? {
            options.block_size = block_size;
        }
        Ok(())
    }

    /// A new disk of this format and a disk's size and sectors; the rest as was said.
    pub fn new_disk_like(&self, format: FormatName, disk: &dyn Disk) -> Result<NewDisk> {
        let mut new = NewDisk::like(format.into(), disk.geometry());
        match &mut new {
            NewDisk::Vhdx(options) => self.apply_to_vhdx(options)?,
            NewDisk::Vhd(options) => self.apply_to_vhd(options)?,
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
