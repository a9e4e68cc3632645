//! Files of others, and what others say of files that were repaired.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use ireko_disk::check::{RepairOptions, check, repair};
use ireko_disk::{Access, Chain};
use ireko_testkit::Image;

use crate::outside::{
    self, Sample, has, hash_of_disk, hash_of_reader, run, sample, save, soaking, text,
};
use crate::support::*;

fn hash(path: &Path) -> String {
    hash_of_disk(&Chain::open(&[path.to_owned()], Access::ReadOnly).unwrap())
}

fn found(path: &Path) -> Vec<(Kind, Severity)> {
    let mut found = kinds(&check(path).unwrap());
    // What Windows leaves free in its files is its own affair.
    found.retain(|kind| *kind != (Kind::Leaked, Note));
    found
}

#[track_caller]
fn sample_checks(from: Sample, expected: &[(Kind, Severity)]) {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = sample(from, folder.path()) else { return };
    let before = std::fs::read(&path).unwrap();
    assert_eq!(found(&path), expected);
    assert!(std::fs::read(&path).unwrap() == before, "checking changed the file");

    let report = repair(&path, &RepairOptions::default()).unwrap();
    assert_eq!(report.repaired.len(), expected.len());
    assert_eq!(found(&path), []);
    assert_eq!(std::fs::read(&path).unwrap() != before, !expected.is_empty());
    if before.len() < 1 << 28 || soaking() {
        assert_eq!(hash(&path), from.hash);
    }
    if has("qemu-img") {
        run("qemu-img", &["check", "-f", "vhdx", text(&path)]);
    }
}

#[test]
fn disks_of_windows_are_clean() {
    sample_checks(outside::OF_HYPER_V, &[]);
    sample_checks(outside::SWAP, &[]);
}

#[test]
fn a_disk_of_disk2vhd_has_identical_headers_until_it_is_repaired() {
    // It ends half a KiB after a MiB.
    let expected = [(Kind::HeadersIdentical, Warning), (Kind::FileLength, Warning)];
    sample_checks(outside::OF_DISK2VHD, &expected);
}

#[test]
fn a_dirty_disk_of_windows_has_its_log_replayed_by_a_repair() {
    sample_checks(outside::DIRTY, &[(Kind::LogInUse, Note)]);
}

type Edit<'a> = &'a dyn Fn(&mut Image);

/// Whether `qemu-img check` has nothing to say of a file.
fn qemu_is_content(path: &Path) -> bool {
    let arguments = ["check", "-f", "vhdx", text(path)];
    Command::new("qemu-img").args(arguments).output().unwrap().status.success()
}

#[test]
fn qemu_agrees_with_a_repair() {
    if !has("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, raw) = (folder.path().join("disk.vhdx"), folder.path().join("disk.raw"));
    let taken = entry(&base(), 3) & !(MIB - 1);
    // Whether QEMU has something to say of the damage: it never looks at the second region table.
    let edits: [(Edit<'_>, bool); 6] = [
        (&|image| set_entry(image, 0, taken | 6), false),
        (&|image| set_entry(image, 0, (1 << 40) | 6), true),
        (&|image| image.set_length(image.length() - MIB / 2), true),
        (&|image| set_entry(image, BITMAP_SLOT, taken | 6), false),
        (&|image| image.write(TABLES[0] + 20, b"damage"), true),
        (&|image| image.write(HEADERS[1] + 100, b"damage"), false),
    ];
    for (index, (edit, is_seen)) in edits.into_iter().enumerate() {
        let mut image = base();
        edit(&mut image);
        save(&image, &path);
        assert_eq!(qemu_is_content(&path), !is_seen, "{index}");
        let report = repair(&path, &RepairOptions { discard_lost_blocks: true }).unwrap();
        assert!(!report.repaired.is_empty() && report.worst() <= Some(Note), "{report:#?}");
        assert!(qemu_is_content(&path), "{index}");
        run("qemu-img", &["convert", "-f", "vhdx", "-O", "raw", text(&path), text(&raw)]);
        assert_eq!(hash_of_reader(File::open(&raw).unwrap()), hash(&path), "{index}");
    }
}
