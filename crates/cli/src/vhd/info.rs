//! `ireko vhd info`.

use super::source::{Source, failed};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::words::binary_size;
use ireko_disk::{Format, Kind, vhd, vhdx};
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Show what a disk file is: format, sizes, identity, parent
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Show the parents too, down to the base
    #[arg(long)]
    chain: bool,

    /// Print a JSON array, one object a file
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    source: Source,

    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// A file's description. Sizes are bytes; what a format does not have is left out.
#[derive(Serialize)]
struct Description {
    file: String,
    format: &'static str,
    kind: String,
    virtual_size: u64,
    file_size: u64,
    allocated: u64,
    logical_sector: u32,
    physical_sector: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_in_use: Option<bool>,
    /// The size that QEMU and Virtual PC see, where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    chs_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Parent>,
}

/// What a child knows of its parent.
#[derive(Serialize)]
struct Parent {
    identity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    relative_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absolute_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_path: Option<String>,
}

/// Prints what is there; nothing is locked, so that it may be asked of a disk in use.
pub fn execute(args: &Args) -> Result<Exit> {
    let format = args.source.format_of(&args.file)?;
    let files = match args.chain && format != Format::Raw {
        true => args.source.parents.of(&args.file)?,
        false => vec![args.file.clone()],
    };
    let describe = |file: &PathBuf| Description::of(file, format);
    let descriptions = files.iter().map(describe).collect::<Result<Vec<_>>>()?;
    if args.json {
        output::json(&descriptions)?;
        return Ok(Exit::SUCCESS);
    }
    for (index, description) in descriptions.iter().enumerate() {
        if index > 0 {
            output::line("")?;
        }
        for (name, value) in description.lines() {
            output::line(format_args!("{name:<16}{}", crate::table::printable(&value)))?;
        }
    }
    Ok(Exit::SUCCESS)
}

impl Description {
    fn of(file: &Path, format: Format) -> Result<Self> {
        let metadata = std::fs::metadata(file).map_err(|error| {
            Error::local(format!("cannot look at {}", file.display())).because(error)
        })?;
        let sizes = (metadata.len(), metadata.blocks() * 512);
        match format {
            Format::Raw => Ok(Self::of_raw(file, sizes)),
            Format::Vhdx => {
                let info = vhdx::info(file).map_err(failed("cannot look at", file))?;
                Ok(Self::of_vhdx(file, sizes, info))
            }
            Format::Vhd => {
                let info = vhd::info(file).map_err(failed("cannot look at", file))?;
                Ok(Self::of_vhd(file, sizes, info))
            }
        }
    }

    fn of_raw(file: &Path, (file_size, allocated): (u64, u64)) -> Self {
        Self {
            file: file.display().to_string(),
            format: "raw",
            kind: Kind::Fixed.to_string(),
            virtual_size: file_size.next_multiple_of(512),
            file_size,
            allocated,
            logical_sector: 512,
            physical_sector: 512,
            block_size: None,
            identity: None,
            disk_id: None,
            log_in_use: None,
            chs_size: None,
            parent: None,
        }
    }

    fn of_vhdx(file: &Path, (file_size, allocated): (u64, u64), info: vhdx::Info) -> Self {
        Self {
            file: file.display().to_string(),
            format: "vhdx",
            kind: info.kind.to_string(),
            virtual_size: info.geometry.virtual_size,
            file_size,
            allocated,
            logical_sector: info.geometry.logical_sector,
            physical_sector: info.geometry.physical_sector,
            block_size: Some(info.block_size),
            identity: Some(info.data_write_guid.to_string()),
            disk_id: Some(info.page83.to_string()),
            log_in_use: Some(info.dirty_log),
            chs_size: None,
            parent: info.parent.map(|link| Parent {
                identity: link.linkage.to_string(),
                relative_path: link.relative_path,
                absolute_path: link.absolute_path,
                volume_path: link.volume_path,
            }),
        }
    }

    fn of_vhd(file: &Path, (file_size, allocated): (u64, u64), info: vhd::Info) -> Self {
        Self {
            file: file.display().to_string(),
            format: "vhd",
            kind: info.kind.to_string(),
            virtual_size: info.geometry.virtual_size,
            file_size,
            allocated,
            logical_sector: info.geometry.logical_sector,
            physical_sector: info.geometry.physical_sector,
            block_size: info.block_size,
            identity: Some(info.unique_id.to_string()),
            disk_id: None,
            log_in_use: None,
            chs_size: info.chs_size,
            parent: info.parent.map(|link| Parent {
                identity: link.unique_id.to_string(),
                relative_path: link.relative_path,
                absolute_path: link.absolute_path.or(link.name),
                volume_path: None,
            }),
        }
    }

    /// What is printed for people: names and values.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("file", self.file.clone()),
            ("format", format!("{}, {}", self.format.to_uppercase(), self.kind)),
            ("virtual size", sized(self.virtual_size)),
            ("file size", sized(self.file_size)),
            ("on disk", sized(self.allocated)),
            (
                "sectors",
                format!("{} logical, {} physical", self.logical_sector, self.physical_sector),
            ),
        ];
        lines.extend(self.block_size.map(|bytes| ("block size", binary_size(bytes.into()))));
        lines.extend(self.identity.clone().map(|id| ("identity", id)));
        lines.extend(self.disk_id.clone().map(|id| ("disk id", id)));
        let log = |used| if used { "in use, or not closed cleanly" } else { "clean" };
        lines.extend(self.log_in_use.map(|used| ("log", log(used).to_owned())));
        lines.extend(self.chs_size.map(|bytes| ("size for QEMU", sized(bytes))));
        if let Some(parent) = &self.parent {
            let paths = [&parent.relative_path, &parent.absolute_path, &parent.volume_path];
            let paths: Vec<&str> = paths.into_iter().flatten().map(String::as_str).collect();
            lines.push(("parent", paths.join(", ")));
            lines.push(("parent identity", parent.identity.clone()));
        }
        lines
    }
}

/// `64GiB (68719476736 bytes)`.
fn sized(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", binary_size(bytes))
}
