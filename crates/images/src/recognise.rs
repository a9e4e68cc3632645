//! What a file is that is to become an image: told by its content, never by its name.
//!
//! ```text
//!   vhdxfile, conectix, QFI, KDMV, VDI's mark ─► a disk          a partition table ─► a raw disk
//!   PK ─► a zip                                                  gzip, xz, zstd ─► look inside
//!   tar ─► its members' names:   an .ovf first ─► OVA            oci-layout, manifest.json ─► for load
//!                                Vagrant's names ─► a box        else ─► a root file system
//! ```
//!
//! A raw disk's bytes are its guest's, who may write any signature into them. So nothing here says
//! that a file is safe to open as what it is taken for: whoever opens it checks it as hostile.

mod contents;
mod partitions;

use crate::compression::Compression;
use crate::error::{During, Error, Result};
use ireko_disk::{FileStorage, Lock};
use partitions::Partitions;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::str::FromStr;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recognised {
    /// One disk.
    Disk(DiskFormat),
    /// Disks in an archive, with a description of the machine they are for.
    Packed(Packing, Compression),
    /// A tar archive of a root file system.
    RootFs,
    /// A zip archive, as images are exported.
    Zip,
    /// What `docker save` writes.
    DockerArchive,
    /// An OCI image layout: a folder, or a tar archive of one.
    OciLayout,
}

/// The format of a file that holds one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// Hyper-V's; images are kept in it.
    Vhdx,
    /// Hyper-V's older one, and Azure's.
    Vhd,
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// VirtualBox's.
    Vdi,
}

/// How disks are packed with the description of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// An OVF package in one tar file.
    Ova,
    /// A Vagrant box.
    VagrantBox,
}

/// What a user may say that a file is; the words of `--format`.
pub const FORMATS: [&str; 9] = ["vhdx", "vhd", "raw", "qcow2", "vmdk", "vdi", "ova", "box", "tar"];

/// What is told with every refusal of a file that is not known.
const KNOWN: &str = "known are VHDX, VHD, qcow2, VMDK, VDI and raw disks with a partition table \
                     (others with `--format raw`), OVA, Vagrant boxes, zips of VHDX files, docker's \
                     archives and OCI image layouts, and tar archives of a root file system, plain \
                     or by gzip, xz or zstd";

/// The longest beginning of a file that is looked at.
const HEAD: u64 = 64 << 10;
const BLOCK: usize = 512;
/// An archive of zeros is one without entries; a longer file of zeros is rather an empty disk.
const EMPTY_TAR: u64 = 1 << 20;

impl fmt::Display for Recognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recognised::Disk(format) => write!(f, "{format} disk"),
            Recognised::Packed(packing, _) => packing.fmt(f),
            Recognised::RootFs => f.write_str("tar archive of a root file system"),
            Recognised::Zip => f.write_str("zip archive"),
            Recognised::DockerArchive => f.write_str("docker archive"),
            Recognised::OciLayout => f.write_str("OCI image layout"),
        }
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskFormat::Vhdx => "VHDX",
            DiskFormat::Vhd => "VHD",
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Vmdk => "VMDK",
            DiskFormat::Vdi => "VDI",
        })
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Packing::Ova => "OVA",
            Packing::VagrantBox => "Vagrant box",
        })
    }
}

/// What a user says that a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenFormat {
    /// One disk.
    Disk(DiskFormat),
    /// A disk in an archive.
    Packed(Packing),
    /// A tar archive of a root file system, whatever its members are called.
    Tar,
}

impl FromStr for GivenFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<GivenFormat> {
        Ok(match text {
            "vhdx" => GivenFormat::Disk(DiskFormat::Vhdx),
            "vhd" => GivenFormat::Disk(DiskFormat::Vhd),
            "raw" => GivenFormat::Disk(DiskFormat::Raw),
            "qcow2" => GivenFormat::Disk(DiskFormat::Qcow2),
            "vmdk" => GivenFormat::Disk(DiskFormat::Vmdk),
            "vdi" => GivenFormat::Disk(DiskFormat::Vdi),
            "ova" => GivenFormat::Packed(Packing::Ova),
            "box" => GivenFormat::Packed(Packing::VagrantBox),
            "tar" => GivenFormat::Tar,
            _ => {
                let known = FORMATS.join(", ");
                return Err(Error::bad_input(format!("{text:?} is no format: {known}")));
            }
        })
    }
}

/// Tells what the file or folder at `path` is; `given` is what its owner says, where he does.
///
/// What he says decides where the content leaves a choice; it is not verified here.
/// Fails with [`crate::ErrorKind::BadInput`] where it is nothing that is known.
pub fn recognise(path: &Path, given: Option<GivenFormat>) -> Result<Recognised> {
    let looking = || format!("look at {}", path.display());
    if std::fs::metadata(path).during(looking)?.is_dir() {
        return match path.join("oci-layout").is_file() {
            true => Ok(Recognised::OciLayout),
            false => Err(refused(path, "is a folder").hint(
                "tar -C FOLDER -c . | ireko import - NAME makes an image of a root file system",
            )),
        };
    }
    match given {
        None => by_content(path),
        Some(GivenFormat::Disk(format)) => Ok(Recognised::Disk(format)),
        Some(GivenFormat::Tar) => Ok(Recognised::RootFs),
        Some(GivenFormat::Packed(packing)) => {
            let head = File::open(path).and_then(|file| head(&file)).during(looking)?;
            Ok(Recognised::Packed(packing, compression(path, &head)?))
        }
    }
}

fn by_content(path: &Path) -> Result<Recognised> {
    let looking = || format!("look at {}", path.display());
    let storage = FileStorage::open(path, Lock::None).during(looking)?;
    let file = File::open(path).during(looking)?;
    let length = file.metadata().during(looking)?.len();
    let head = head(&file).during(looking)?;
    if head.is_empty() {
        return Err(refused(path, "is empty"));
    }
    if let Some(known) = by_signature(&head) {
        return Ok(known);
    }
    match ireko_disk::Format::of(&storage) {
        Ok(Some(ireko_disk::Format::Vhdx)) => return Ok(Recognised::Disk(DiskFormat::Vhdx)),
        Ok(Some(_)) => return Ok(Recognised::Disk(DiskFormat::Vhd)),
        Ok(None) => {}
        Err(error) => {
            let error = Err::<(), _>(error).during(looking);
            return Err(error
                .err()
                .unwrap_or_else(|| refused(path, "is not known"))
                .hint("say what it is: --format vhdx or --format vhd"));
        }
    }
    let compression = compression(path, &head)?;
    if compression != Compression::None {
        return compressed(path, compression);
    }
    if is_tar(&head, length) {
        return contents::of_tar(BufReader::new(file), compression)
            .map_err(|error| within(path, error));
    }
    if head.get(0x8001..0x8006) == Some(b"CD001") {
        return Err(refused(path, "is an ISO image: an installation medium, not a disk"));
    }
    match partitions::look(&head, length) {
        Partitions::Whole => Ok(Recognised::Disk(DiskFormat::Raw)),
        Partitions::CutOff { end } => Err(refused(
            path,
            format!(
                "is a raw disk that is cut off: its partitions need {end} bytes, it has {length}"
            ),
        )
        .hint("--format raw takes it all the same")),
        Partitions::LargeSectors => Err(refused(
            path,
            "is a raw disk of 4096-byte sectors, which no guest would find its partitions on here",
        )),
        Partitions::None => Err(unknown(path)),
    }
}

fn by_signature(head: &[u8]) -> Option<Recognised> {
    let disk = |format| Some(Recognised::Disk(format));
    match head {
        [b'Q', b'F', b'I', 0xfb, ..] => disk(DiskFormat::Qcow2),
        [b'K', b'D', b'M', b'V', ..] | [b'C', b'O', b'W', b'D', ..] => disk(DiskFormat::Vmdk),
        _ if head.starts_with(b"# Disk DescriptorFile") => disk(DiskFormat::Vmdk),
        _ if head.get(0x40..0x44) == Some(&[0x7f, 0x10, 0xda, 0xbe]) => disk(DiskFormat::Vdi),
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] | [b'P', b'K', 7, 8, ..] => {
            Some(Recognised::Zip)
        }
        _ => None,
    }
}

/// Tells a member of an archive by its first bytes; a fixed VHD and a raw disk have no signature there.
pub(crate) fn disk_by_head(head: &[u8]) -> Option<DiskFormat> {
    match by_signature(head) {
        Some(Recognised::Disk(format)) => Some(format),
        Some(_) => None,
        None if head.starts_with(b"vhdxfile") => Some(DiskFormat::Vhdx),
        None if head.starts_with(b"conectix") => Some(DiskFormat::Vhd),
        None => None,
    }
}

fn compressed(path: &Path, compression: Compression) -> Result<Recognised> {
    let opening = || format!("look into {}", path.display());
    let open = || -> std::io::Result<_> {
        compression.decoder(BufReader::with_capacity(64 << 10, File::open(path)?))
    };
    let mut block = Vec::with_capacity(BLOCK);
    let read = open().and_then(|plain| plain.take(BLOCK as u64).read_to_end(&mut block));
    if let Err(error) = read {
        return Err(refused(path, format!("is an archive that cannot be read: {error}")));
    }
    if is_tar(&block, block.len() as u64) {
        let plain = open().during(opening)?;
        return contents::of_tar(plain, compression).map_err(|error| within(path, error));
    }
    let what = match disk_by_head(&block) {
        Some(format) => format!("is a compressed {format} disk"),
        None => "is compressed, and no archive inside".to_owned(),
    };
    Err(refused(path, what).hint(format!("uncompress it first; {KNOWN}")))
}

fn is_tar(head: &[u8], length: u64) -> bool {
    let Some(block) = head.first_chunk::<BLOCK>() else { return false };
    ireko_tar::begins_archive(block)
        || (length <= EMPTY_TAR && length >= 2 * BLOCK as u64 || head.len() == BLOCK)
            && head.iter().all(|byte| *byte == 0)
}

fn compression(path: &Path, head: &[u8]) -> Result<Compression> {
    Compression::of(head).map_err(|name| {
        refused(path, format!("is compressed with {name}, which Ireko does not read"))
            .hint("uncompress it first, or use gzip, xz or zstd")
    })
}

fn head(mut file: &File) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(head)
}

fn unknown(path: &Path) -> Error {
    refused(path, "is nothing that is known here").hint(KNOWN)
}

fn refused(path: &Path, what: impl fmt::Display) -> Error {
    Error::bad_input(format!("{} {what}", path.display()))
}

fn within(path: &Path, error: ireko_tar::Error) -> Error {
    refused(path, format!("is an archive that cannot be read: {}", crate::error::chain(&error)))
}

#[cfg(test)]
mod tests;
