//! `ireko vhd create`.

use super::format::FormatName;
use super::shape::Shape;
use super::source::failed;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::quantity;
use ireko_disk::{raw, relative_parent_path, vhd, vhdx};
use std::path::{Path, PathBuf};

/// Create an empty disk, or a differencing disk over a parent
///
/// The format follows the file's name (.vhdx, .vhd, .raw, .img) where --format does not say it.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Format of the new file: vhdx, vhd or raw
    #[arg(short, long, value_name = "format")]
    format: Option<FormatName>,

    /// Size of the virtual disk: 40g, 512m
    #[arg(short, long, value_name = "bytes", value_parser = quantity::bytes)]
    #[arg(required_unless_present = "parent", conflicts_with = "parent")]
    size: Option<u64>,

    /// Make a differencing disk over this file, which must not change any more
    #[arg(short, long, value_name = "file")]
    parent: Option<PathBuf>,

    /// With --parent: its path on the Windows machine that the disk is for, such as C:\disks\base.vhdx
    #[arg(long, value_name = "path", requires = "parent")]
    absolute_path: Option<String>,

    #[command(flatten)]
    shape: Shape,

    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Makes the file and prints its name.
pub fn execute(args: &Args) -> Result<Exit> {
    let format = FormatName::of_new(args.format, &args.file, "--format")?;
    let created = match (&args.parent, args.size) {
        (Some(parent), _) => create_child(args, format, parent)?,
        (None, Some(size)) => create_base(args, format, size)?,
        (None, None) => return Err(Error::usage("--size or --parent is needed")),
    };
    created.map_err(failed("cannot create", &args.file))?;
    output::line(args.file.display())?;
    Ok(Exit::SUCCESS)
}

fn create_base(args: &Args, format: FormatName, size: u64) -> Result<ireko_disk::Result<()>> {
    Ok(match format {
        FormatName::Vhdx => {
            let mut options = vhdx::CreateOptions::new(size);
            args.shape.apply_to_vhdx(&mut options)?;
            vhdx::create(&args.file, &options)
        }
        FormatName::Vhd => {
            let mut options = vhd::CreateOptions::new(size);
            args.shape.apply_to_vhd(&mut options)?;
            vhd::create(&args.file, &options)
        }
        FormatName::Raw => {
            args.shape.refuse_for_raw()?;
            raw::create(&args.file, size)
        }
    })
}

fn create_child(args: &Args, format: FormatName, parent: &Path) -> Result<ireko_disk::Result<()>> {
    let block_size = args.shape.only_block_size()?;
    let absolute_path = args.absolute_path.clone();
    let path =
        relative_parent_path(&args.file, parent).map_err(failed("cannot create", &args.file))?;
    Ok(match format {
        FormatName::Vhdx => {
            let usual = vhdx::ChildOptions::default();
            let block_size = block_size.unwrap_or(usual.block_size);
            let options = vhdx::ChildOptions { block_size, absolute_path };
            vhdx::create_child(&args.file, parent, &path, &options)
        }
        FormatName::Vhd => {
            let usual = vhd::ChildOptions::default();
            let block_size = block_size.unwrap_or(usual.block_size);
            let options = vhd::ChildOptions { block_size, absolute_path };
            vhd::create_child(&args.file, parent, &path, &options)
        }
        FormatName::Raw => return Err(Error::usage("a raw file has no parent; VHDX and VHD have")),
    })
}
