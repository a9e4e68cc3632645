//! A whole chain as one disk of any format.
//!
//! ```text
//!   chain ─► vhdx, vhd, raw
//!   chain ─► raw, sparse and aside ─► another program ─► qcow2, vmdk
//! ```

use super::{CONVERTED, ExportFormat, PendingExport};
use crate::conversion::{Conversion, Filled};
use crate::error::{During, Result};
use crate::recognise::DiskFormat;
use crate::step;
use ireko_disk::{Access, Chain, Disk, Format, NewDisk, Watch, convert, vhd};

/// Writes the image's whole disk, as far as that can be done here.
pub(super) fn flatten(
    pending: &PendingExport,
    format: ExportFormat,
    watch: &dyn Watch,
) -> Result<Filled> {
    let image = pending.plan.image.short();
    let files: Vec<_> = pending.plan.layers.iter().rev().map(|layer| layer.path.clone()).collect();
    let opening = || format!("open the {} layers of {image}", files.len());
    let disk = Chain::open(&files, Access::ReadOnly).during(opening)?;
    let geometry = disk.geometry();
    let (new, foreign) = match format {
        ExportFormat::Vhdx => (NewDisk::like(Format::Vhdx, geometry), None),
        ExportFormat::Vhd => (NewDisk::like(Format::Vhd, geometry), None),
        ExportFormat::VhdFixed => {
            (NewDisk::Vhd(vhd::CreateOptions::for_azure(geometry.virtual_size)), None)
        }
        ExportFormat::Raw | ExportFormat::Zip(_) => (NewDisk::Raw, None),
        ExportFormat::Qcow2 => (NewDisk::Raw, Some(DiskFormat::Qcow2)),
        ExportFormat::Vmdk => (NewDisk::Raw, Some(DiskFormat::Vmdk)),
    };
    let made = pending.made();
    let to = if foreign.is_some() { made.with_added_extension("raw") } else { made };
    let flattening = || format!("flatten {image}");
    step::allocating().during(flattening)?;
    convert(&disk, &to, &new, watch).during(flattening)?;
    let Some(format) = foreign else { return Ok(Filled::Whole) };
    let folder = pending.aside.folder.join(CONVERTED);
    let size = geometry.virtual_size;
    Ok(Filled::ToConvert(Conversion::plan((&to, DiskFormat::Raw), (&folder, format), size)?))
}
