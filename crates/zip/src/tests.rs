//! Archives as others write them, and archives that lie.

use super::*;
use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, ZipWriter};
use std::io::{Cursor, Write};

const TEXT: &[u8] = b"some text, some text, some text, some text";

/// Two files, one stored and one deflated.
fn sound() -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let deflated = stored.compression_method(CompressionMethod::Deflated);
    writer.start_file("a", stored).unwrap();
    writer.write_all(TEXT).unwrap();
    writer.start_file("日本", deflated).unwrap();
    writer.write_all(&TEXT.repeat(30_000)).unwrap();
    writer.finish().unwrap().into_inner()
}

fn read(archive: &Archive<Vec<u8>>, number: usize) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    archive.read(&archive.entries()[number], &mut |at, piece| {
        assert_eq!(at, plain.len() as u64);
        plain.extend_from_slice(piece);
        assert!(plain.len() as u64 <= archive.entries()[number].length);
        Ok::<_, Error>(())
    })?;
    Ok(plain)
}

/// Where the last such signature is.
fn last(bytes: &[u8], signature: &[u8; 4]) -> usize {
    bytes.windows(4).rposition(|window| window == signature).unwrap()
}

fn first(bytes: &[u8], signature: &[u8; 4]) -> usize {
    bytes.windows(4).position(|window| window == signature).unwrap()
}

fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
}

#[test]
fn every_byte_of_every_file_is_read() {
    let archive = Archive::open(sound()).unwrap();
    let names: Vec<_> = archive.entries().iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["a", "日本"]);
    assert_eq!(read(&archive, 0).unwrap(), TEXT);
    assert!(read(&archive, 1).unwrap() == TEXT.repeat(30_000));
}

#[test]
fn a_reader_may_end_it() {
    let archive = Archive::open(sound()).unwrap();
    let enough = || Err(Error::Malformed("enough".to_owned()));
    let error = archive.read(&archive.entries()[1], &mut |_, _| enough()).unwrap_err();
    assert_eq!(error.to_string(), "enough");
}

#[test]
fn an_archive_without_entries_or_with_a_comment_is_one() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    // One that could be taken for an end record.
    writer.set_comment("PK\x05\x06 and more of that").unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    assert!(Archive::open(bytes).unwrap().entries().is_empty());
}

/// Puts a zip64 record and its locator before the end record, which then says nothing itself.
fn zip64(mut bytes: Vec<u8>, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let end = last(&bytes, b"PK\x05\x06");
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let entries = u64::from(bytes[end + 10]);
    let (length, start) = (u64::from(number(end + 12)), u64::from(number(end + 16)));
    let mut record = b"PK\x06\x06".to_vec();
    record.extend(44_u64.to_le_bytes());
    record.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [entries, entries, length, start] {
        record.extend(number.to_le_bytes());
    }
    record.extend(b"PK\x06\x07\0\0\0\0");
    record.extend((end as u64).to_le_bytes());
    record.extend(1_u32.to_le_bytes());
    change(&mut record);
    put(&mut bytes, end + 8, &[0xff; 12]);
    bytes.splice(end..end, record);
    bytes
}

#[test]
fn numbers_may_be_in_a_zip64_record() {
    let archive = Archive::open(zip64(sound(), |_| ())).unwrap();
    assert_eq!(archive.entries().len(), 2);
}

#[track_caller]
fn refused(bytes: Vec<u8>, says: &str) {
    let archive = Archive::open(bytes);
    let read = archive.and_then(|archive| {
        (0..archive.entries().len()).try_for_each(|number| read(&archive, number).map(drop))
    });
    let error = read.unwrap_err().to_string();
    assert!(error.contains(says), "{error}");
}

#[test]
fn zip64_records_that_lie_are_refused() {
    let huge = (1_u64 << 40).to_le_bytes();
    let cases: [(usize, &[u8], &str); 8] = [
        // The record's own length, its place, the number of disks.
        (4, &huge, "not where it says"),
        (64, &huge, "not where it says"),
        (64, &[0xff; 8], "not where it says"),
        (72, &[2], "not where it says"),
        // Entries, more than memory holds; the directory's length and place.
        (24, &[[0, 0, 0, 0, 0, 1, 0, 0]; 2].concat(), "too large"),
        (40, &huge, "too large"),
        (48, &huge, "not where it says"),
        (48, &[0xff; 8], "not where it says"),
    ];
    for (at, with, says) in cases {
        refused(zip64(sound(), |record| put(record, at, with)), says);
    }
}

#[test]
fn what_is_cut_off_is_refused_wherever_that_is() {
    let sound = sound();
    for length in (0..sound.len()).step_by(7).chain([sound.len() - 1]) {
        refused(sound[..length].to_vec(), "");
    }
    refused([&sound[..], b"more"].concat(), "no directory at its end");
    refused([b"more", &sound[..]].concat(), "");
}

#[test]
fn a_directory_that_lies_is_refused() {
    let sound = sound();
    let (entry, end) = (first(&sound, b"PK\x01\x02"), last(&sound, b"PK\x05\x06"));
    let second = last(&sound, b"PK\x01\x02");
    let cases: [(usize, &[u8], &str); 14] = [
        // Of an entry: flags, method, sum, lengths, lengths of its parts, disk, place.
        (entry + 8, &[1], "not what the directory says"),
        (entry + 10, &[8], "not what the directory says"),
        (entry + 16, &[0x55], "checksum"),
        (entry + 20, &[0xff; 3], "not where the directory says"),
        (entry + 20, &[0xff; 4], "damaged"),
        (entry + 24, &[9], "longer than the 9 bytes"),
        (entry + 24, &[99], "and not the 99"),
        (entry + 28, &[0xff; 2], "damaged"),
        (entry + 34, &[1], "damaged"),
        (entry + 46, b"b", "not what the directory says"),
        (second + 42, &sound[entry + 42..entry + 46], "not what the directory says"),
        // Of the directory: disk, number of entries, place.
        (end + 4, &[1], "several parts"),
        (end + 8, &[1, 0, 1, 0], "more entries than it says"),
        (end + 8, &[3, 0, 3, 0], "damaged"),
    ];
    for (at, with, says) in cases {
        let mut bytes = sound.clone();
        put(&mut bytes, at, with);
        refused(bytes, says);
    }
}

#[test]
fn two_entries_of_the_same_bytes_are_refused() {
    let mut bytes = sound();
    let (entry, end) = (first(&bytes, b"PK\x01\x02"), last(&bytes, b"PK\x05\x06"));
    let again = bytes[entry..last(&bytes, b"PK\x01\x02")].to_vec();
    bytes.splice(end..end, again.clone());
    let end = end + again.len();
    bytes[end + 8] = 3;
    bytes[end + 10] = 3;
    let length = (end - entry) as u32;
    put(&mut bytes, end + 12, &length.to_le_bytes());
    refused(bytes.clone(), "two entries called");
    // Under another name, with a header of its own that lies in the first one's data.
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    writer.start_file("b", stored).unwrap();
    writer.write_all(TEXT).unwrap();
    let inner = writer.finish().unwrap().into_inner();
    let inner = &inner[..first(&inner, b"PK\x01\x02")];
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("a", stored).unwrap();
    writer.write_all(inner).unwrap();
    writer.start_file("b", stored).unwrap();
    writer.write_all(TEXT).unwrap();
    let mut bytes = writer.finish().unwrap().into_inner();
    let second = last(&bytes, b"PK\x01\x02");
    let place =
        bytes.windows(4).enumerate().filter(|(_, it)| it == b"PK\x03\x04").nth(1).unwrap().0;
    put(&mut bytes, second + 42, &(place as u32).to_le_bytes());
    refused(bytes, "share bytes");
}

#[test]
fn names_are_read_in_whatever_letters() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("xx", SimpleFileOptions::default()).unwrap();
    let sound = writer.finish().unwrap().into_inner();
    let (local, entry) = (first(&sound, b"PK\x03\x04"), first(&sound, b"PK\x01\x02"));
    let mut bytes = sound.clone();
    for at in [local + 30, entry + 46] {
        put(&mut bytes, at, &[0x95, b'x']);
    }
    assert_eq!(Archive::open(bytes).unwrap().entries()[0].name, "_x");
    let mut bytes = sound.clone();
    for at in [local + 30, entry + 46] {
        put(&mut bytes, at, "é".as_bytes());
    }
    assert_eq!(Archive::open(bytes).unwrap().entries()[0].name, "é");
}

#[test]
fn links_and_folders_are_told_from_files() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    writer.add_directory("folder", options).unwrap();
    writer.add_symlink("link", "/etc/passwd", options).unwrap();
    writer.start_file("file", options).unwrap();
    let archive = Archive::open(writer.finish().unwrap().into_inner()).unwrap();
    let kinds: Vec<_> = archive.entries().iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [Kind::Folder, Kind::Other, Kind::File]);
}
