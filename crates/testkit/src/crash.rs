//! Storage that loses power.
//!
//! What was written before the last sync of a [`Trace`] is there after a cut; what was written since may be
//! there whole, in part, in any order, or not at all.

use std::io;

use ireko_disk::Storage;
use parking_lot::Mutex;

use crate::image::Image;
use crate::random::Random;

/// Storage in memory that records every change.
#[derive(Debug, Default)]
pub struct CrashStorage {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    start: Image,
    now: Image,
    changes: Vec<Change>,
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
}

impl Damage {
    /// One of each kind.
    pub const ALL: [Self; 6] = [
        Self::KeepsAll,
        Self::LosesAll,
        Self::LosesSome,
        Self::Reorders,
        Self::Tears(512),
        Self::Tears(4096),
    ];
}

/// The changes made to a storage, in order.
#[derive(Clone, Debug)]
pub struct Trace {
    start: Image,
    changes: Vec<Change>,
}

impl CrashStorage {
    /// Starts with the bytes of `image`, all durable.
    pub fn new(image: Image) -> Self {
        let state = State { start: image.clone(), now: image, changes: Vec::new() };
        Self { state: Mutex::new(state) }
    }

    /// Returns how many changes were made so far: a position in the trace.
    pub fn position(&self) -> usize {
        self.state.lock().changes.len()
    }

    /// Copies the changes made so far.
    pub fn trace(&self) -> Trace {
        let state = self.state.lock();
        Trace { start: state.start.clone(), changes: state.changes.clone() }
    }

    /// Copies the present bytes.
    pub fn image(&self) -> Image {
        self.state.lock().now.clone()
    }

    fn change(&self, change: Change) {
        let mut state = self.state.lock();
        change.apply(&mut state.now);
        state.changes.push(change);
    }
}

impl Storage for CrashStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.state.lock().now.read(offset, buffer)
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
        Ok(self.state.lock().now.length())
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
        self.changes.len()
    }

    /// Returns what is on the medium when power is lost after `cut` changes.
    pub fn cut(&self, cut: usize, damage: Damage, random: &mut Random) -> Image {
        let done = &self.changes[..cut];
        let is_sync = |change: &Change| matches!(change, Change::Sync);
        let durable = done.iter().rposition(is_sync).map_or(0, |sync| sync + 1);
        let mut image = self.start.clone();
        done[..durable].iter().for_each(|change| change.apply(&mut image));
        for change in damage.survivors(&done[durable..], random) {
            change.apply(&mut image);
        }
        image
    }
}

impl Damage {
    fn survivors(self, pending: &[Change], random: &mut Random) -> Vec<Change> {
        match self {
            Self::KeepsAll => pending.to_vec(),
            Self::LosesAll => Vec::new(),
            Self::LosesSome => some(pending.to_vec(), random),
            Self::Reorders => some(shuffled(pending.to_vec(), random), random),
            Self::Tears(unit) => {
                let torn = pending.iter().flat_map(|change| change.torn(unit)).collect();
                some(shuffled(torn, random), random)
            }
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
}
