//! A crash or an error at every step of a freeze.

use std::path::{Path, PathBuf};

use super::*;
use crate::vhdx::{self, CreateOptions, create, create_child};
use crate::{Access, Disk};

/// A store in small: a base in `images/`, a leaf over it in `containers/`, with something written.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("images")).unwrap();
        fs::create_dir(place.path("containers")).unwrap();
        create(&place.base(), &CreateOptions::new(1 << 30)).unwrap();
        let options = ChildOptions::default();
        create_child(&place.leaf(), &place.base(), r"..\images\base.vhdx", &options).unwrap();
        place
    }

    /// What a machine finds after losing power now: a copy of all files.
    fn crash(&self) -> Self {
        let copy = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["images", "containers"] {
            fs::create_dir(copy.path(name)).unwrap();
            for entry in fs::read_dir(self.path(name)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), copy.path(name).join(entry.file_name())).unwrap();
            }
        }
        copy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn base(&self) -> PathBuf {
        self.path("images/base.vhdx")
    }

    fn leaf(&self) -> PathBuf {
        self.path("containers/leaf.vhdx")
    }

    fn frozen(&self) -> PathBuf {
        self.path("images/web.vhdx")
    }

    fn next(&self) -> PathBuf {
        self.path("containers/leaf.vhdx.next")
    }

    fn plan(&self) -> FreezePlan {
        FreezePlan {
            frozen: self.frozen(),
            frozen_parent: Some(r".\base.vhdx".into()),
            next_parent: r"..\images\web.vhdx".into(),
        }
    }

    /// Files of the chain, leaf first, as a freeze that took place or did not leaves them.
    fn chain(&self) -> Vec<PathBuf> {
        match self.frozen().exists() {
            true => vec![self.leaf(), self.frozen(), self.base()],
            false => vec![self.leaf(), self.base()],
        }
    }

    fn open(&self) -> Chain {
        Chain::open(&self.chain(), Access::ReadWrite).unwrap()
    }
}

fn byte_at(disk: &Chain, offset: u64) -> u8 {
    let mut byte = [0];
    disk.read_at(offset, &mut byte).unwrap();
    byte[0]
}

fn relative_path(path: &Path) -> Option<String> {
    vhdx::info(path).unwrap().parent.unwrap().relative_path
}

#[test]
fn the_disk_goes_on_in_a_child_and_the_frozen_file_stays_as_it_was() {
    let place = Place::new();
    let mut disk = place.open();
    disk.write_at(0, &[1; 8192]).unwrap();
    disk.freeze(&place.plan()).unwrap();
    assert_eq!((disk.depth(), disk.leaf_path()), (3, place.leaf().as_path()));
    assert!(!place.next().exists());

    let info = vhdx::info(&place.frozen()).unwrap();
    assert!(!info.dirty_log);
    assert_eq!(info.parent.unwrap().relative_path.as_deref(), Some(r".\base.vhdx"));
    assert_eq!(relative_path(&place.leaf()).as_deref(), Some(r"..\images\web.vhdx"));
    let mode = fs::metadata(place.frozen()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o444);

    let before = fs::read(place.frozen()).unwrap();
    disk.write_at(0, &[2; 4096]).unwrap();
    disk.flush().unwrap();
    assert_eq!((byte_at(&disk, 0), byte_at(&disk, 4096)), (2, 1));

    // Another process makes a disk of its own from the image while this one runs.
    let other = place.path("containers/other.vhdx");
    create_child(&other, &place.frozen(), r"..\images\web.vhdx", &ChildOptions::default()).unwrap();
    let other = Chain::open(&[other, place.frozen(), place.base()], Access::ReadWrite).unwrap();
    assert_eq!(byte_at(&other, 0), 1);
    other.write_at(0, &[3]).unwrap();
    drop((disk, other));
    assert!(fs::read(place.frozen()).unwrap() == before);
    assert_eq!(byte_at(&place.open(), 0), 2);
}

#[test]
fn a_disk_can_be_frozen_again_and_again_and_its_index_follows() {
    let place = Place::new();
    let mut disk = place.open();
    for round in 0..20u8 {
        disk.write_at(u64::from(round) * 4096, &[round + 1; 8192]).unwrap();
        assert_eq!(byte_at(&disk, 0), 1);
        let frozen = place.path(&format!("images/{round}.vhdx"));
        let plan = FreezePlan { frozen, frozen_parent: None, ..place.plan() };
        disk.freeze(&plan).unwrap();
        for earlier in 0..=round {
            assert_eq!(byte_at(&disk, u64::from(earlier) * 4096), earlier + 1);
        }
    }
    assert_eq!(disk.depth(), 22);
    let paths = disk.paths.clone();
    drop(disk);
    let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
    assert!((0..20).all(|round| byte_at(&disk, u64::from(round) * 4096) == round + 1));
}

const STEPS: [Step; 4] = [Step::Settled, Step::ChildMade, Step::LeafMoved, Step::ChildMoved];

#[test]
fn a_crash_at_any_step_is_finished_or_undone() {
    for crash_at in STEPS {
        let place = Place::new();
        let mut disk = place.open();
        disk.write_at(12345, b"x").unwrap();
        let mut crashed = None;
        disk.freeze_in_steps(&place.plan(), &mut |step| {
            if step == crash_at {
                crashed = Some(place.crash());
            }
            Ok(())
        })
        .unwrap();
        let crashed = crashed.unwrap();

        let forward = matches!(crash_at, Step::LeafMoved | Step::ChildMoved);
        let expected = if forward { Recovered::Forward } else { Recovered::Back };
        for _ in 0..2 {
            assert_eq!(recover(&crashed.leaf(), &crashed.frozen()).unwrap(), expected);
        }
        assert_eq!(crashed.frozen().exists(), forward, "{crash_at:?}");
        assert!(!crashed.next().exists());
        let mut disk = crashed.open();
        assert_eq!(byte_at(&disk, 12345), b'x');
        disk.write_at(0, b"goes on").unwrap();
        if !forward {
            disk.freeze(&crashed.plan()).unwrap();
        }
    }
}

#[test]
fn a_failure_at_any_step_but_the_last_leaves_the_chain_usable_as_it_was() {
    for fail_at in &STEPS[..3] {
        let place = Place::new();
        let mut disk = place.open();
        disk.write_at(12345, b"x").unwrap();
        let failure = disk.freeze_in_steps(&place.plan(), &mut |step| match step == *fail_at {
            true => Err(Error::new(ErrorKind::NoSpace, "full")),
            false => Ok(()),
        });
        assert_eq!(failure.unwrap_err().kind(), ErrorKind::NoSpace);
        assert!(!place.frozen().exists() && !place.next().exists(), "{fail_at:?}");
        assert_eq!(disk.depth(), 2);
        disk.write_at(0, b"goes on").unwrap();
        disk.flush().unwrap();
        assert_eq!(relative_path(&place.leaf()).as_deref(), Some(r"..\images\base.vhdx"));
        assert_eq!(byte_at(&disk, 12345), b'x');

        disk.freeze(&place.plan()).unwrap();
        assert_eq!(byte_at(&disk, 12345), b'x');
    }
}

#[test]
fn an_existing_file_is_never_replaced() {
    let place = Place::new();
    let mut disk = place.open();
    fs::write(place.frozen(), "another image").unwrap();
    assert!(disk.freeze(&place.plan()).is_err());
    assert_eq!(fs::read(place.frozen()).unwrap(), b"another image");
    disk.write_at(0, b"goes on").unwrap();
}

#[test]
fn recovery_of_nothing_is_an_error() {
    let place = Place::new();
    let missing = place.path("images/missing.vhdx");
    let error = recover(&missing, &place.frozen()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
