//! Storage that loses power.
//!
//! What was written before the last sync of a [`Trace`] is there after a cut; what was written since may be
//! there whole, in part, in any order, or not at all. Several files that lose power together are a group:
//!
//! ```text
//!   child    write        write sync       write        one order over all files;
//!   parent          write            write       sync   a sync makes its own file durable only
//!   position 0      1     2     3    4     5     6
//! ```

use std::io;
use std::sync::Arc;

use ireko_disk::Storage;
use parking_lot::Mutex;

use crate::image::Image;
use crate::random::Random;

/// Storage in memory that records every change.
#[derive(Debug)]
pub struct CrashStorage {
    group: Arc<Mutex<Group>>,
    /// Which of the group's files this is.
    file: usize,
}

#[derive(Debug)]
struct Group {
    start: Vec<Image>,
    now: Vec<Image>,
    changes: Vec<(usize, Change)>,
}

/// One call that changed the storage, or made changes durable.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Length(u64),
    Punch { offset: u64, length: u64 },
    Sync,
}

/// What a power cut does to the changes that no sync followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// All of them made it: the cut came late.
    KeepsAll,
    /// None of them made it.
    LosesAll,
    /// Each made it or not.
    LosesSome,
    /// As [`Damage::LosesSome`], and they reached the medium in another order.
    Reorders,
    /// Each unit of so many bytes made it or not, in another order.
    Tears(usize),
    /// Of each file, all of them made it or none.
    LosesFiles,
}

impl Damage {
    /// One of each kind that matters to a single file.
    pub const ALL: [Self; 6] = [
        Self::KeepsAll,
        Self::LosesAll,
        Self::LosesSome,
        Self::Reorders,
        Self::Tears(512),
        Self::Tears(4096),
    ];

    /// One of each kind that matters to a group of files.
    pub const GROUP: [Self; 7] = [
        Self::KeepsAll,
        Self::LosesAll,
        Self::LosesSome,
        Self::Reorders,
        Self::Tears(512),
        Self::Tears(4096),
        Self::LosesFiles,
    ];
}

/// The changes made to a storage, in order.
#[derive(Clone, Debug)]
pub struct Trace {
    group: GroupTrace,
    file: usize,
}

/// The changes made to a group of storages, in one order over all of them.
#[derive(Clone, Debug)]
pub struct GroupTrace {
    start: Vec<Image>,
    changes: Vec<(usize, Change)>,
}

impl Default for CrashStorage {
    fn default() -> Self {
        Self::new(Image::default())
    }
}

impl CrashStorage {
    /// Starts with the bytes of `image`, all durable.
    pub fn new(image: Image) -> Self {
        Self { group: Group::new(vec![image]), file: 0 }
    }

    /// Makes files that lose power together, each starting with the bytes of one of `images`, all durable.
    pub fn group(images: Vec<Image>) -> Vec<Arc<Self>> {
        let files = 0..images.len();
        let group = Group::new(images);
        files.map(|file| Arc::new(Self { group: group.clone(), file })).collect()
    }

    /// Returns how many changes were made so far to the files of the group: a position in the trace.
    pub fn position(&self) -> usize {
        self.group.lock().changes.len()
    }

    /// Copies the changes made so far; of a group, what they do to this file.
    pub fn trace(&self) -> Trace {
        Trace { group: self.group_trace(), file: self.file }
    }

    /// Copies the changes made so far to all files of the group.
    pub fn group_trace(&self) -> GroupTrace {
        let group = self.group.lock();
        GroupTrace { start: group.start.clone(), changes: group.changes.clone() }
    }

    /// Copies the present bytes.
    pub fn image(&self) -> Image {
        self.group.lock().now[self.file].clone()
    }

    fn change(&self, change: Change) {
        let mut group = self.group.lock();
        change.apply(&mut group.now[self.file]);
        group.changes.push((self.file, change));
    }
}

impl Group {
    fn new(images: Vec<Image>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { start: images.clone(), now: images, changes: Vec::new() }))
    }
}

impl Storage for CrashStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.group.lock().now[self.file].read(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write { offset, data: data.to_vec() });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.change(Change::Sync);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.group.lock().now[self.file].length())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Change::Length(length));
        Ok(())
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        self.change(Change::Punch { offset, length });
        Ok(())
    }
}

impl Trace {
    /// Number of changes, syncs included; a cut may come after any number of them.
    pub fn positions(&self) -> usize {
        self.group.positions()
    }

    /// Returns what is on the medium when power is lost after `cut` changes.
    pub fn cut(&self, cut: usize, damage: Damage, random: &mut Random) -> Image {
        self.group.cut_file(self.file, cut, damage, random)
    }
}

impl GroupTrace {
    /// Number of changes to any file, syncs included; a cut may come after any number of them.
    pub fn positions(&self) -> usize {
        self.changes.len()
    }

    /// Returns what is on the media, a file each in the group's order, when power is lost after `cut` changes.
    ///
    /// A sync has made durable what was done to its own file only. Files are damaged independently, so that
    /// of two changes to two files the later one may be there without the earlier.
    pub fn cut(&self, cut: usize, damage: Damage, random: &mut Random) -> Vec<Image> {
        (0..self.start.len()).map(|file| self.cut_file(file, cut, damage, random)).collect()
    }

    fn cut_file(&self, file: usize, cut: usize, damage: Damage, random: &mut Random) -> Image {
        let done = self.changes[..cut].iter();
        let done: Vec<&Change> =
            done.filter(|(of, _)| *of == file).map(|(_, change)| change).collect();
        let is_sync = |change: &&Change| matches!(change, Change::Sync);
        let durable = done.iter().rposition(is_sync).map_or(0, |sync| sync + 1);
        let mut image = self.start[file].clone();
        done[..durable].iter().for_each(|change| change.apply(&mut image));
        for change in damage.survivors(&done[durable..], random) {
            change.apply(&mut image);
        }
        image
    }
}

impl Damage {
    fn survivors(self, pending: &[&Change], random: &mut Random) -> Vec<Change> {
        let all = || pending.iter().map(|&change| change.clone()).collect();
        match self {
            Self::KeepsAll => all(),
            Self::LosesAll => Vec::new(),
            Self::LosesSome => some(all(), random),
            Self::Reorders => some(shuffled(all(), random), random),
            Self::Tears(unit) => {
                let torn = pending.iter().flat_map(|change| change.torn(unit)).collect();
                some(shuffled(torn, random), random)
            }
            Self::LosesFiles if random.one_in(2) => Vec::new(),
            Self::LosesFiles => all(),
        }
    }
}

fn some(mut changes: Vec<Change>, random: &mut Random) -> Vec<Change> {
    // Most or few survive, so that both near-complete and near-empty groups are met.
    let odds = random.below(8);
    changes.retain(|_| random.below(8) <= odds);
    changes
}

fn shuffled(mut changes: Vec<Change>, random: &mut Random) -> Vec<Change> {
    for last in (1..changes.len()).rev() {
        changes.swap(last, random.below(last as u64 + 1) as usize);
    }
    changes
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Self::Write { offset, data } => image.write(*offset, data),
            Self::Length(length) => image.set_length(*length),
            Self::Punch { offset, length } => image.punch(*offset, *length),
            Self::Sync => {}
        }
    }

    /// Cuts a write where a medium with units of so many bytes would.
    fn torn(&self, unit: usize) -> Vec<Self> {
        let Self::Write { offset, data } = self else { return vec![self.clone()] };
        let mut parts = Vec::new();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let step = (unit - at as usize % unit).min(data.len() - done);
            parts.push(Self::Write { offset: at, data: data[done..done + step].to_vec() });
            done += step;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Trace {
        let storage = CrashStorage::default();
        storage.write_at(0, &[1; 1024]).unwrap();
        storage.sync().unwrap();
        storage.write_at(0, &[2; 1024]).unwrap();
        storage.trace()
    }

    #[test]
    fn synced_changes_survive_every_cut_after_the_sync() {
        let trace = recorded();
        for damage in Damage::ALL {
            let image = trace.cut(2, damage, &mut Random::new(3));
            let mut bytes = [0; 1024];
            image.read(0, &mut bytes).unwrap();
            assert_eq!(bytes, [1; 1024]);
        }
    }

    #[test]
    fn tearing_mixes_old_and_new_sectors_but_no_bytes_within_one() {
        let (trace, mut random) = (recorded(), Random::new(4));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let image = trace.cut(3, Damage::Tears(512), &mut random);
            let mut bytes = [0; 1024];
            image.read(0, &mut bytes).unwrap();
            assert!(bytes[..512].iter().all(|&b| b == bytes[0]));
            assert!(bytes[512..].iter().all(|&b| b == bytes[512]));
            seen.insert((bytes[0], bytes[512]));
        }
        assert_eq!(seen.len(), 4);
    }

    fn byte(image: &Image, at: u64) -> u8 {
        let mut byte = [0];
        image.read(at, &mut byte).unwrap();
        byte[0]
    }

    /// Two files of a byte each: both written, the second synced, both written again.
    fn recorded_group() -> GroupTrace {
        let mut image = Image::default();
        image.write(0, &[0]);
        let files = CrashStorage::group(vec![image.clone(), image]);
        files[0].write_at(0, &[1]).unwrap();
        files[1].write_at(0, &[1]).unwrap();
        files[1].sync().unwrap();
        files[0].write_at(0, &[2]).unwrap();
        files[1].write_at(0, &[2]).unwrap();
        assert_eq!((files[0].position(), files[1].position()), (5, 5));
        files[0].group_trace()
    }

    #[test]
    fn a_sync_makes_its_own_file_durable_only() {
        let (trace, mut random) = (recorded_group(), Random::new(1));
        let images = trace.cut(5, Damage::LosesAll, &mut random);
        assert_eq!((byte(&images[0], 0), byte(&images[1], 0)), (0, 1));
    }

    #[test]
    fn the_order_of_changes_is_one_over_all_files() {
        let (trace, mut random) = (recorded_group(), Random::new(1));
        let expected = [(0, 0), (1, 0), (1, 1), (1, 1), (2, 1), (2, 2)];
        for (cut, expected) in expected.into_iter().enumerate() {
            let images = trace.cut(cut, Damage::KeepsAll, &mut random);
            assert_eq!((byte(&images[0], 0), byte(&images[1], 0)), expected, "cut {cut}");
        }
        assert_eq!(trace.positions(), 5);
    }

    #[test]
    fn one_file_of_a_group_may_lose_what_another_keeps() {
        let (trace, mut random) = (recorded_group(), Random::new(2));
        let met: std::collections::BTreeSet<_> = (0..100)
            .map(|_| trace.cut(5, Damage::LosesFiles, &mut random))
            .map(|images| (byte(&images[0], 0), byte(&images[1], 0)))
            .collect();
        assert_eq!(Vec::from_iter(met), [(0, 1), (0, 2), (2, 1), (2, 2)]);
    }
}
