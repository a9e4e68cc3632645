//! The empty disk that every app image starts from: one ext4 in a virtual disk.
//!
//! ```text
//!   mkfs.ext4 ─► sparse raw file, 64 GiB ─► its data only ─► root.vhdx, some 5 MiB allocated
//! ```
//!
//! Features, identity and time are given, not taken from this machine's settings, so that the file
//! system has the same bytes on all machines with the same mkfs. A new virtual disk reads as
//! zeros, so inode tables and journal need not be written: 5 MiB allocated instead of 529.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use ireko_disk::vhdx::{self, CreateOptions};
use ireko_disk::{Access, Chain, Disk};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::tool::Tool;

const VIRTUAL_SIZE: u64 = 64 << 30;
/// The file system's data lie in 48 places 1 to 2 GiB apart; larger blocks would make a longer file.
const BLOCK_SIZE: u32 = 2 << 20;
const JOURNAL_MIB: u32 = 64;
const COPY_UNIT: usize = 1 << 20;

const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
    flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
const UUID: &str = "b6a0f9c4-5f0e-4d1b-9a39-2f6d8a7c1e55";
const HASH_SEED: &str = "0d9b1c6e-7f21-4f0a-8a55-1f5c1c3e9b07";
/// 2024-01-01, in seconds since 1970.
const MADE: &str = "1704067200";
/// In place of the machine's `mke2fs.conf`, which may ask for anything.
const MKE2FS_CONF: &str = "[defaults]\n\tbase_features = none\n\tinode_size = 256\n\
    [fs_types]\n\text4 = {\n\t\tinode_size = 256\n\t}\n";

/// Makes the disk at `vhdx`, which must not exist; works in `work`.
pub(crate) fn make(vhdx: &Path, work: &Path) -> Result<()> {
    let raw = work.join("root.raw");
    make_file_system(&raw, work)?;
    make_disk(&raw, vhdx)?;
    fs::set_permissions(vhdx, fs::Permissions::from_mode(0o444))
        .map_err(Error::io("make the empty disk read-only"))
}

fn make_file_system(raw: &Path, work: &Path) -> Result<()> {
    let conf = work.join("mke2fs.conf");
    fs::write(&conf, MKE2FS_CONF).map_err(Error::io("write mke2fs.conf"))?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(raw)
        .and_then(|file| file.set_len(VIRTUAL_SIZE))
        .map_err(Error::io("make a sparse file"))?;
    Tool::find("mkfs.ext4", "e2fsprogs")?
        .env("MKE2FS_CONFIG", &conf)
        // The first is what e2fsprogs before 1.47.1 knows.
        .env("E2FSPROGS_FAKE_TIME", MADE)
        .env("SOURCE_DATE_EPOCH", MADE)
        .args(["-q", "-F", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0"])
        .args(["-O", FEATURES, "-U", UUID, "-J", &format!("size={JOURNAL_MIB}"), "-E"])
        .arg(format!(
            "assume_storage_prezeroed=1,lazy_itable_init=1,nodiscard,root_owner=0:0,hash_seed={HASH_SEED}"
        ))
        .arg(raw)
        .output()
        .map(drop)
}

fn make_disk(raw: &Path, vhdx: &Path) -> Result<()> {
    let options = CreateOptions { block_size: BLOCK_SIZE, ..CreateOptions::new(VIRTUAL_SIZE) };
    vhdx::create(vhdx, &options).map_err(disk_error("make the empty disk"))?;
    let disk = Chain::open(&[vhdx.to_owned()], Access::ReadWrite)
        .map_err(disk_error("open the empty disk"))?;
    let raw = File::open(raw).map_err(Error::io("open the new file system"))?;
    copy_data(&raw, &disk)?;
    disk.flush().map_err(disk_error("write the empty disk"))
}

/// Copies what the sparse file holds; its holes are zeros on a new disk already.
fn copy_data(raw: &File, disk: &dyn Disk) -> Result<()> {
    let reading = || Error::io("read the new file system");
    let mut buffer = vec![0; COPY_UNIT];
    let mut end = 0;
    while let Some(start) = seek_to(raw, SeekFrom::Data(end)).map_err(reading())? {
        end = seek_to(raw, SeekFrom::Hole(start)).map_err(reading())?.unwrap_or(VIRTUAL_SIZE);
        let mut offset = start;
        while offset < end {
            let length = COPY_UNIT.min((end - offset) as usize);
            raw.read_exact_at(&mut buffer[..length], offset).map_err(reading())?;
            disk.write_at(offset, &buffer[..length]).map_err(disk_error("write the empty disk"))?;
            offset += length as u64;
        }
    }
    Ok(())
}

/// `None` when nothing of the kind follows.
fn seek_to(file: &File, position: SeekFrom) -> io::Result<Option<u64>> {
    match seek(file, position) {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn disk_error(doing: &'static str) -> impl FnOnce(ireko_disk::Error) -> Error {
    move |source| Error::new(ErrorKind::Io, doing).because(source)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    /// The disk's content as a sparse raw file.
    fn read_back(vhdx: &Path, raw: &Path) {
        let disk = Chain::open(&[vhdx.to_owned()], Access::ReadOnly).unwrap();
        let file = File::create_new(raw).unwrap();
        file.set_len(VIRTUAL_SIZE).unwrap();
        let mut offset = 0;
        let mut buffer = vec![0; COPY_UNIT];
        while offset < VIRTUAL_SIZE {
            for extent in disk.extents(offset, VIRTUAL_SIZE - offset, 64).unwrap() {
                let end = extent.offset + extent.length;
                while extent.kind == ireko_disk::ExtentKind::Data && offset < end {
                    let length = COPY_UNIT.min((end - offset) as usize);
                    disk.read_at(offset, &mut buffer[..length]).unwrap();
                    if buffer[..length].iter().any(|byte| *byte != 0) {
                        file.write_all_at(&buffer[..length], offset).unwrap();
                    }
                    offset += length as u64;
                }
                offset = end;
            }
        }
    }

    #[test]
    fn the_disk_is_small_and_e2fsck_finds_nothing_on_it() {
        let work = tempfile::tempdir().unwrap();
        let vhdx = work.path().join("root.vhdx");
        make(&vhdx, work.path()).unwrap();
        let metadata = fs::metadata(&vhdx).unwrap();
        assert!(metadata.blocks() * 512 < 8 << 20, "{} sectors allocated", metadata.blocks());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o444);

        let raw = work.path().join("back.raw");
        read_back(&vhdx, &raw);
        let e2fsck = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&raw).output().unwrap();
        assert!(e2fsck.status.success(), "{}", String::from_utf8_lossy(&e2fsck.stdout));
    }

    #[test]
    fn the_file_system_is_the_same_each_time_it_is_made() {
        let data_of = |folder: &Path| {
            let raw = folder.join("root.raw");
            make_file_system(&raw, folder).unwrap();
            let mut first = vec![0; 8 << 20];
            File::open(&raw).unwrap().read_exact_at(&mut first, 0).unwrap();
            (fs::metadata(&raw).unwrap().blocks(), first)
        };
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(data_of(one.path()) == data_of(two.path()));
    }
}
