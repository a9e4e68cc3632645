//! `ireko vhd create`.

use super::format::FormatName;
use super::source::failed;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::quantity;
use ireko_disk::vhdx::{self, Provision};
use ireko_disk::{raw, relative_parent_path};
use std::path::PathBuf;

/// Create an empty disk, or a differencing disk over a parent
///
/// The format follows the file's name (.vhdx, .raw, .img) where --format does not say it.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Format of the new file: vhdx or raw
    #[arg(short, long, value_name = "format")]
    format: Option<FormatName>,

    /// Size of the virtual disk: 40g, 512m
    #[arg(short, long, value_name = "bytes", value_parser = quantity::bytes)]
    #[arg(required_unless_present = "parent", conflicts_with = "parent")]
    size: Option<u64>,

    /// Make a differencing disk over this file, which must not change any more
    #[arg(short, long, value_name = "file")]
    parent: Option<PathBuf>,

    #[command(flatten)]
    shape: Shape,

    #[arg(value_name = "FILE")]
    file: PathBuf,
}

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
        narrow("--block-size", self.block_size)
    }

    /// The logical sector in bytes, where one was given.
    pub fn sector(&self) -> Result<Option<u32>> {
        narrow("--sector", self.sector)
    }

    /// When blocks are to get their place.
    pub fn provision(&self) -> Provision {
        match (self.fixed, self.preallocate) {
            (false, false) => Provision::Dynamic,
            (_, preallocate) => Provision::Fixed { preallocate },
        }
    }

    /// Refuses what a raw file does not have.
    pub fn refuse_for_raw(&self) -> Result<()> {
        match self.block_size.or(self.sector).is_some() || self.preallocate {
            false => Ok(()),
            true => Err(Error::usage("a raw file has no blocks, sectors or space to choose")),
        }
    }
}

fn narrow(option: &str, bytes: Option<u64>) -> Result<Option<u32>> {
    let narrow = |bytes: u64| {
        u32::try_from(bytes).map_err(|_| Error::usage(format!("{option} is too large: {bytes}")))
    };
    bytes.map(narrow).transpose()
}

/// Makes the file and prints its name.
pub fn execute(args: &Args) -> Result<Exit> {
    let format = args.format.or_else(|| FormatName::by_suffix(&args.file)).ok_or_else(|| {
        Error::usage(format!("the format of {} is not clear from its name", args.file.display()))
            .hint("--format says it, or a name that ends in .vhdx")
    })?;
    match (&args.parent, args.size, format) {
        (Some(parent), _, FormatName::Vhdx) => create_child(args, parent)?,
        (Some(_), _, FormatName::Raw) => {
            return Err(Error::usage("a raw file has no parent; VHDX has"));
        }
        (None, Some(size), FormatName::Vhdx) => create_vhdx(args, size)?,
        (None, Some(size), FormatName::Raw) => {
            args.shape.refuse_for_raw()?;
            raw::create(&args.file, size).map_err(failed("cannot create", &args.file))?;
        }
        (None, None, _) => return Err(Error::usage("--size or --parent is needed")),
    }
    output::line(args.file.display())?;
    Ok(Exit::SUCCESS)
}

fn create_vhdx(args: &Args, size: u64) -> Result<()> {
    let mut options = vhdx::CreateOptions::new(size);
    options.provision = args.shape.provision();
    if let Some(block_size) = args.shape.block_size()? {
        options.block_size = block_size;
    }
    if let Some(sector) = args.shape.sector()? {
        options.logical_sector = sector;
    }
    vhdx::create(&args.file, &options).map_err(failed("cannot create", &args.file))
}

fn create_child(args: &Args, parent: &std::path::Path) -> Result<()> {
    if args.shape.sector.is_some() {
        return Err(Error::usage("a differencing disk has its parent's sector size"));
    }
    if args.shape.fixed || args.shape.preallocate {
        return Err(Error::usage("a differencing disk is never fixed"));
    }
    let mut options = vhdx::ChildOptions::default();
    if let Some(block_size) = args.shape.block_size()? {
        options.block_size = block_size;
    }
    let path =
        relative_parent_path(&args.file, parent).map_err(failed("cannot create", &args.file))?;
    vhdx::create_child(&args.file, parent, &path, &options)
        .map_err(failed("cannot create", &args.file))
}
