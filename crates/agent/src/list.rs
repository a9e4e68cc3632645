//! Listing a disk, so that it can be compared with another.

use std::fs::File;
use std::io::{BufWriter, Write};

use ireko_protocol::listing::Listed;
use rustix::fs::FileType;

use crate::failure::{During, Failure, Result};
use crate::pack::xattrs_of;
use crate::rooted::Root;
use crate::walk::{Found, walk};

/// Writes [`Listed`] entries of all that is on the disk.
pub fn list(disk: &Root, to: File) -> Result<()> {
    let mut to = BufWriter::with_capacity(64 * 1024, to);
    let mut bytes = Vec::new();
    let telling = || "tell what is on the disk";
    walk(disk, b"/", |found| {
        bytes.clear();
        listed(found)?
            .encode(&mut bytes)
            .map_err(|_| Failure::of(telling(), rustix::io::Errno::NAMETOOLONG))?;
        to.write_all(&bytes).during(telling)
    })?;
    to.flush().during(telling)
}

fn listed(found: &Found<'_>) -> Result<Listed> {
    let stat = &found.stat;
    // Whatever is done to a file shows in its ctime; a folder's changes with what is in it.
    let xattrs = match FileType::from_raw_mode(stat.st_mode).is_dir() {
        true => hash(&xattrs_of(found)?),
        false => 0,
    };
    Ok(Listed {
        path: found.path.to_vec(),
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size.try_into().unwrap_or_default(),
        rdev: stat.st_rdev,
        inode: stat.st_ino,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
        xattrs,
    })
}

/// FNV-1a: the same on every machine and at every time.
fn hash(xattrs: &[(Vec<u8>, Vec<u8>)]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    for (name, value) in xattrs {
        name.iter().chain([&0]).chain(value).chain([&0]).for_each(|byte| add(*byte));
    }
    hash
}
