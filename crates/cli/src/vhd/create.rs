//! `ireko vhd create`.

use super::format::FormatName;
use super::shape::Shape;
use super::source::failed;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::quantity;
use ireko_disk::{raw, relative_parent_path, vhdx};
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
    args.shape.apply(&mut options)?;
    vhdx::create(&args.file, &options).map_err(failed("cannot create", &args.file))
}

fn create_child(args: &Args, parent: &std::path::Path) -> Result<()> {
    if args.shape.sector.is_some() {
        return Err(Error::usage("a differencing disk has its parent's sector size"));
    }
    if args.shape.fixed || args.shape.preallocate {
        return Err(Error::usage("a differencing disk is never fixed"));
    }
    let mut options = vhdx::ChildOptions {
        absolute_path: args.absolute_path.clone(),
        ..vhdx::ChildOptions::default()
    };
    if let Some(block_size) = args.shape.block_size()? {
        options.block_size = block_size;
    }
    let path =
        relative_parent_path(&args.file, parent).map_err(failed("cannot create", &args.file))?;
    vhdx::create_child(&args.file, parent, &path, &options)
        .map_err(failed("cannot create", &args.file))
}
