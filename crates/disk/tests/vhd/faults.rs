//! Full and failing host disks: an error, nothing lost that was there, and no lie afterwards.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ireko_disk::{Access, Chain, Disk, ErrorKind, Storage};
use ireko_testkit::CrashStorage;
use ireko_testkit::random::Random;
use parking_lot::Mutex;

use crate::support::{MIB, SECTOR, changed, child_of, dynamic, fixed, formatted};

/// Storage whose writes fail for want of space, one in so many; and whose syncs can be made to fail.
struct Faulty {
    inner: CrashStorage,
    /// 0: never.
    full_one_in: AtomicU64,
    sync_fails: AtomicBool,
    random: Mutex<Random>,
}

impl Faulty {
    fn over(inner: CrashStorage) -> Self {
        Self {
            inner,
            full_one_in: AtomicU64::new(0),
            sync_fails: AtomicBool::new(false),
            random: Mutex::new(Random::new(1)),
        }
    }

    fn space(&self) -> io::Result<()> {
        let odds = self.full_one_in.load(Ordering::Relaxed);
        match odds > 0 && self.random.lock().one_in(odds) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl Storage for Faulty {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Err(full) = self.space() {
            // As a file would: some of it is written.
            self.inner.write_at(offset, &data[..data.len() / 2 / SECTOR * SECTOR])?;
            return Err(full);
        }
        self.inner.write_at(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        match self.sync_fails.load(Ordering::Relaxed) {
            false => self.inner.sync(),
            true => Err(io::Error::other("medium error")),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.space()?;
        self.inner.set_len(length)
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        self.space()?;
        self.inner.punch_hole(offset, length)
    }
}

/// A child on faulty storage, over a base with bytes in it.
fn child() -> (Arc<Faulty>, Chain, Arc<dyn Storage>) {
    let mut base = [formatted(&dynamic(8 * MIB, 1 << 20))];
    changed(&mut base, |disk| disk.write_at(0, &vec![0xBA; 6 * MIB as usize]).unwrap());
    let [base] = base;
    let leaf = Arc::new(Faulty::over(CrashStorage::new(child_of(&base, 1 << 20))));
    let base: Arc<dyn Storage> = Arc::new(CrashStorage::new(base));
    let disk = Chain::over(vec![leaf.clone(), base.clone()], Access::ReadWrite).unwrap();
    (leaf, disk, base)
}

#[test]
fn on_a_full_host_disk_every_sector_is_old_or_new_and_work_goes_on_when_there_is_space() {
    for seed in 0..8 {
        let (leaf, disk, base) = child();
        let (mut random, size) = (Random::new(seed), 8 * MIB as usize);
        let mut allowed: Vec<Vec<u8>> = (0..size / SECTOR)
            .map(|sector| vec![if sector * SECTOR < 6 * MIB as usize { 0xBA } else { 0 }])
            .collect();
        leaf.full_one_in.store(4, Ordering::Relaxed);
        let mut failures = 0;
        for round in 0..300 {
            let first = random.below(size as u64 / SECTOR as u64) as usize;
            let longest = if random.one_in(5) { 4096 } else { 16 };
            let count = (random.below(longest) as usize + 1).min(size / SECTOR - first);
            let (at, length) = ((first * SECTOR) as u64, count * SECTOR);
            let value = match random.below(8) {
                0 => 0,
                _ => round as u8 | 1,
            };
            let flushes = value == 0 && random.one_in(2);
            let outcome = match value {
                _ if flushes => disk.flush(),
                0 => disk.write_zeroes(at, length as u64),
                _ => disk.write_at(at, &vec![value; length]),
            };
            match outcome {
                _ if flushes => {}
                Ok(()) => allowed[first..first + count].fill(vec![value]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                    failures += 1;
                    allowed[first..first + count].iter_mut().for_each(|sector| sector.push(value));
                }
            }
        }
        assert!(failures > 20);
        leaf.full_one_in.store(0, Ordering::Relaxed);
        disk.flush().unwrap();
        let check = |disk: &Chain| {
            let mut bytes = vec![0; size];
            disk.read_at(0, &mut bytes).unwrap();
            for (index, (sector, allowed)) in bytes.chunks(SECTOR).zip(&allowed).enumerate() {
                let value = sector[0];
                assert!(sector.iter().all(|&b| b == value), "sector {index} is torn");
                assert!(allowed.contains(&value), "sector {index}: {value:#x} not in {allowed:x?}");
            }
            bytes
        };
        let before = check(&disk);
        disk.close().unwrap();
        let disk = Chain::over(vec![leaf, base], Access::ReadWrite).unwrap();
        assert!(check(&disk) == before);
        disk.write_at(7 * MIB, &vec![9; MIB as usize]).unwrap();
        disk.close().unwrap();
    }
}

#[test]
fn after_a_failed_sync_no_flush_succeeds_and_the_file_keeps_what_was_flushed() {
    let whole = Arc::new(Faulty::over(CrashStorage::new(formatted(&fixed(8 * MIB)))));
    let fixed = Chain::over(vec![whole.clone()], Access::ReadWrite).unwrap();
    let (leaf, disk, base) = child();
    for (storage, disk, parents) in [(whole, fixed, Vec::new()), (leaf, disk, vec![base])] {
        disk.write_at(0, &[1; SECTOR]).unwrap();
        disk.flush().unwrap();
        storage.sync_fails.store(true, Ordering::Relaxed);
        disk.write_at(4096, &[2; SECTOR]).unwrap();
        assert_eq!(disk.flush().unwrap_err().kind(), ErrorKind::Io);
        storage.sync_fails.store(false, Ordering::Relaxed);
        let again = disk.flush().unwrap_err().kind();
        assert_eq!(again, ErrorKind::Io, "the lost sync must not be forgotten");
        assert!(disk.close().is_err());

        let files = std::iter::once(storage as Arc<dyn Storage>).chain(parents).collect();
        let disk = Chain::over(files, Access::ReadWrite).unwrap();
        let mut bytes = [0; SECTOR];
        disk.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [1; SECTOR]);
        disk.flush().unwrap();
    }
}
