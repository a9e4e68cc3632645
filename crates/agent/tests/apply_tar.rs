//! Archives, good and hostile, unpacked into a temporary folder. Runs as root, as the agent does.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use ireko_agent::apply_tar::{Applied, Manner, apply};
use ireko_agent::failure::Result;
use ireko_agent::rooted::Root;
use ireko_protocol::agent::FailureKind;
use ireko_tar::Archive;
use tar::{Builder, EntryType, Header};

/// Builds archives with another implementation's writer.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn put(mut self, kind: EntryType, path: &str, link: &str, data: &[u8], mode: u32) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        // Written by hand: the builder refuses the paths a hostile archive has.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.put(EntryType::Regular, path, "", data.as_bytes(), 0o644)
    }

    fn folder(self, path: &str, mode: u32) -> Self {
        self.put(EntryType::Directory, path, "", b"", mode)
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.put(EntryType::Symlink, path, target, b"", 0o777)
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.put(EntryType::Link, path, target, b"", 0o644)
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn unpack(self, root: &Path) -> Result<Applied> {
        unpack(&self.bytes(), root)
    }
}

fn unpack(bytes: &[u8], root: &Path) -> Result<Applied> {
    apply(Cursor::new(bytes), Root::open(root.to_str().unwrap()).unwrap(), Manner::Layer)
}

fn root() -> tempfile::TempDir {
    let outer = tempfile::tempdir().unwrap();
    fs::create_dir(outer.path().join("root")).unwrap();
    outer
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn files_get_their_owner_mode_and_time() {
    let outer = root();
    let root = outer.path().join("root");
    let applied = Tar::new()
        .folder("./", 0o755)
        .folder("./bin/", 0o750)
        .put(EntryType::Regular, "./bin/su", "", b"program", 0o6755)
        .symlink("bin/sh", "/bin/su")
        .hard_link("bin/su2", "./bin/su")
        .put(EntryType::Fifo, "pipe", "", b"", 0o600)
        .unpack(&root)
        .unwrap();
    assert_eq!(applied, Applied { entries: 6, bytes: 7 });
    let program = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((program.uid(), program.gid(), program.mode() & 0o7777), (12, 34, 0o6755));
    assert_eq!((program.mtime(), program.nlink()), (1_000_000_000, 2));
    let folder = fs::metadata(root.join("bin")).unwrap();
    assert_eq!((folder.mode() & 0o7777, folder.mtime()), (0o750, 1_000_000_000));
    let link = fs::symlink_metadata(root.join("bin/sh")).unwrap();
    assert_eq!((link.uid(), link.mtime()), (12, 1_000_000_000));
    assert_eq!(fs::read_link(root.join("bin/sh")).unwrap(), Path::new("/bin/su"));
    assert!(fs::symlink_metadata(root.join("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_any_kind() {
    let outer = root();
    let root = outer.path().join("root");
    Tar::new()
        .file("a", "first")
        .file("a", "second")
        .folder("b", 0o755)
        .file("b/deep/down", "x")
        .file("b", "now a file")
        .file("c", "x")
        .folder("c", 0o700)
        .file("c/in", "y")
        .symlink("d", "a")
        .file("d", "not through the link")
        .folder("e", 0o700)
        .file("e/kept", "z")
        .folder("e", 0o711)
        .hard_link("a", "a")
        .unpack(&root)
        .unwrap();
    assert_eq!(text(root.join("a")), "second");
    assert_eq!(text(root.join("b")), "now a file");
    assert_eq!(text(root.join("c/in")), "y");
    assert_eq!(text(root.join("d")), "not through the link");
    assert_eq!(text(root.join("e/kept")), "z", "a folder merges with a folder");
    assert_eq!(fs::metadata(root.join("e")).unwrap().permissions().mode() & 0o7777, 0o711);
}

#[test]
fn links_in_the_way_are_followed_inside_the_root_only() {
    let outer = root();
    let root = outer.path().join("root");
    fs::write(outer.path().join("secret"), "outside").unwrap();
    let absolute = outer.path().to_str().unwrap().trim_start_matches('/').to_owned();
    symlink(outer.path(), root.join("planted")).unwrap();
    Tar::new()
        .symlink("up", "../../../..")
        .file("up/secret", "inside")
        .file("planted/secret", "inside, too")
        .symlink("usr", "/merged")
        .file("usr/bin/x", "in merged")
        .unpack(&root)
        .unwrap();
    assert_eq!(text(outer.path().join("secret")), "outside");
    assert_eq!(text(root.join("secret")), "inside");
    assert_eq!(text(root.join(absolute).join("secret")), "inside, too");
    assert_eq!(text(root.join("merged/bin/x")), "in merged");
}

#[test]
fn a_hard_link_cannot_reach_outside() {
    let outer = root();
    let root = outer.path().join("root");
    fs::write(outer.path().join("secret"), "outside").unwrap();
    symlink("..", root.join("up")).unwrap();
    for target in ["../secret", "/../secret", "up/secret", "/proc/self/root/etc/passwd"] {
        let failure = Tar::new().hard_link("x", target).unpack(&root).unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadInput, "{target}: {failure}");
    }
}

#[track_caller]
fn check_refused(tar: Tar, words: &str) {
    let outer = root();
    let failure = tar.unpack(&outer.path().join("root")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadInput, "{failure}");
    assert!(failure.message.contains(words), "{failure}");
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "nothing beside the root");
}

#[test]
fn what_no_good_archive_holds_is_refused() {
    check_refused(Tar::new().file("../x", ""), "leads outside");
    check_refused(Tar::new().file("a/../../x", ""), "leads outside");
    check_refused(Tar::new().file("a/..", ""), "leads outside");
    check_refused(Tar::new().symlink("./", "x"), "replace the root");
    check_refused(Tar::new().file("a", "").file("a/b", ""), "not a directory");
    check_refused(Tar::new().file(&"n".repeat(99), "").hard_link("x", "none"), "no such file");
    check_refused(Tar::new().put(EntryType::new(b'Z'), "x", "", b"", 0), "unknown type");
    check_refused(Tar::new().pax(&[("path", b"a\0b")]).file("x", ""), "zero byte");
    check_refused(Tar::new().pax(&[("size", b"99999999999999999999")]).file("x", ""), "PAX");
    check_refused(Tar::new().pax(&[("size", b"9223372036854775807")]).file("x", ""), "impossible");
    check_refused(Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", ""), "symbolic links");
}

#[test]
fn pax_records_give_long_names_exact_times_big_ids_and_attributes() {
    let outer = root();
    let root = outer.path().join("root");
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    Tar::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"1234567890.123456789"),
            ("uid", b"3000000"),
            ("SCHILY.xattr.trusted.test", b"a\0b"),
        ])
        .file("short", "x")
        .unpack(&root)
        .unwrap();
    let file = fs::metadata(root.join(&long)).unwrap();
    assert_eq!(
        (file.mtime(), file.mtime_nsec(), file.uid()),
        (1_234_567_890, 123_456_789, 3_000_000)
    );
    let mut value = [0; 16];
    match rustix::fs::getxattr(root.join(&long), "trusted.test", &mut value) {
        Ok(length) => assert_eq!(&value[..length], b"a\0b"),
        Err(cause) => println!("skipped the attribute: {} has none ({cause})", root.display()),
    }
}

#[test]
fn gnu_long_names_and_links_are_read() {
    let outer = root();
    let root = outer.path().join("root");
    let long = "l".repeat(200);
    let mut tar = Tar::new();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.0.append_link(&mut header, format!("n{long}"), &long).unwrap();
    tar.unpack(&root).unwrap();
    assert_eq!(fs::read_link(root.join(format!("n{long}"))).unwrap(), Path::new(&long));
}

/// Every form of sparse file, as GNU tar itself writes them.
#[test]
fn sparse_files_keep_their_holes() {
    let outer = root();
    let source = outer.path().join("source");
    fs::create_dir(&source).unwrap();
    let file = fs::File::create(source.join("holes")).unwrap();
    // More pieces than the old form's header has room for.
    for piece in 0..40u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[piece as u8 + 1; 4096], piece << 16)
            .unwrap();
    }
    file.set_len(4 << 20).unwrap();
    drop(file);
    let expected = fs::read(source.join("holes")).unwrap();
    for form in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let archive = outer.path().join("archive.tar");
        let made = std::process::Command::new("tar")
            .args(form)
            .args(["--sparse", "--hole-detection=raw", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(&source)
            .arg("holes")
            .status();
        let Ok(true) = made.map(|status| status.success()) else {
            println!("skipped: no GNU tar here");
            return;
        };
        let root = outer.path().join("root");
        let bytes = fs::read(&archive).unwrap();
        assert!(bytes.len() < 1 << 20, "{form:?} is sparse");
        let applied = unpack(&bytes, &root).unwrap();
        assert_eq!(applied.bytes, 40 * 4096, "{form:?}");
        assert!(fs::read(root.join("holes")).unwrap() == expected, "{form:?}");
        assert!(fs::metadata(root.join("holes")).unwrap().blocks() * 512 < 1 << 20, "{form:?}");
    }
}

#[test]
fn an_archive_cut_at_any_block_is_refused_or_ends_there() {
    let whole = Tar::new()
        .pax(&[("path", b"long")])
        .file("a", &"x".repeat(3000))
        .folder("b", 0o755)
        .bytes();
    let outer = root();
    for end in 0..whole.len() {
        match unpack(&whole[..end], &outer.path().join("root")) {
            Ok(applied) => assert!(applied.entries <= 2),
            Err(failure) => assert_eq!(failure.kind, FailureKind::BadInput, "{end}: {failure}"),
        }
    }
}

/// No byte of an archive may make the reader panic, hang or take unbounded memory.
#[test]
fn a_damaged_archive_never_breaks_the_reader() {
    let whole = Tar::new()
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"5000")])
        .file("a", &format!("1\n0\n3\n{}abc", "\0".repeat(506)))
        .put(EntryType::GNUSparse, "s", "", &[7; 700], 0o644)
        .file("b", "x")
        .bytes();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for _ in 0..2_000 {
        let mut bytes = whole.clone();
        for _ in 0..4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = (state >> 8) as usize % bytes.len();
            bytes[at] = state as u8;
        }
        // The checksum would hide nearly all damage: it is made right again.
        for start in (0..bytes.len()).step_by(512) {
            let block = &mut bytes[start..start + 512];
            if block[257..262] == *b"ustar" {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let mut archive = Archive::new(Cursor::new(&bytes));
        while let Ok(Some(entry)) = archive.next_entry() {
            if archive.read_data(&entry, |_, _| Ok::<(), ireko_tar::Error>(())).is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_whiteout_takes_away_what_the_layers_below_have() {
    let outer = root();
    let root = outer.path().join("root");
    let below = Tar::new().file("etc/motd", "x").file("etc/keep", "y").file("opt/a/b/c", "z");
    below.symlink("link", "etc").file("top", "t").unpack(&root).unwrap();
    let layer = Tar::new().file("etc/.wh.motd", "").folder("opt", 0o755).file("opt/.wh.a", "");
    let layer = layer.file(".wh.top", "").file(".wh.link", "").file(".wh.never-there", "");
    layer.file("no/such/.wh.folder", "").unpack(&root).unwrap();
    assert!(!root.join("etc/motd").exists() && !root.join("top").exists());
    assert!(fs::symlink_metadata(root.join("link")).is_err());
    assert_eq!(text(root.join("etc/keep")), "y");
    assert_eq!(fs::read_dir(root.join("opt")).unwrap().count(), 0);
    assert!(!root.join("no").exists());
}

#[test]
fn an_opaque_folder_keeps_only_what_its_own_layer_has() {
    for opaque_first in [true, false] {
        let outer = root();
        let root = outer.path().join("root");
        let below =
            Tar::new().file("d/old", "x").file("d/sub/old", "x").file("d/gone/deep/er", "x");
        below.folder("d/empty", 0o755).file("e/other", "x").unpack(&root).unwrap();
        let mut layer = Tar::new().folder("d", 0o700);
        if opaque_first {
            layer = layer.file("d/.wh..wh..opq", "");
        }
        layer = layer.file("d/new", "n").folder("d/sub", 0o755).file("d/sub/new", "n");
        layer = layer.file("d/way/new", "n").folder("d/empty", 0o755);
        if !opaque_first {
            layer = layer.file("d/.wh..wh..opq", "");
        }
        layer.unpack(&root).unwrap();
        let names = |folder: &str| {
            let folder = fs::read_dir(root.join(folder)).unwrap();
            let mut names: Vec<_> =
                folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names("d"), ["empty", "new", "sub", "way"]);
        assert_eq!((names("d/sub"), names("d/way")), (vec!["new".into()], vec!["new".into()]));
        assert_eq!((names("d/empty").len(), names("e")), (0, vec!["other".into()]));
    }
}

#[test]
fn a_whiteout_spares_what_its_own_layer_has() {
    let outer = root();
    let root = outer.path().join("root");
    Tar::new().file("a/old", "x").file("b", "x").unpack(&root).unwrap();
    let layer = Tar::new().folder("a", 0o755).file("a/new", "y").file(".wh.a", "");
    layer.file("b", "y").file(".wh.b", "").unpack(&root).unwrap();
    assert_eq!((text(root.join("a/new")), text(root.join("b"))), ("y".into(), "y".into()));
    assert!(!root.join("a/old").exists());
}

#[test]
fn a_whiteout_stays_inside_the_root() {
    let outer = root();
    let root = outer.path().join("root");
    fs::write(outer.path().join("secret"), "s").unwrap();
    symlink(outer.path(), root.join("out")).unwrap();
    Tar::new().file("out/.wh.secret", "").file("out/.wh..wh..opq", "").unpack(&root).unwrap();
    assert!(outer.path().join("secret").exists());
    for name in ["a/.wh...", "a/.wh..", ".wh."] {
        let error = Tar::new().file(name, "").unpack(&root).unwrap_err();
        assert_eq!(error.kind, FailureKind::BadInput, "{name}");
    }
}

#[test]
fn a_folder_without_an_entry_keeps_its_time() {
    let outer = root();
    let root = outer.path().join("root");
    let below = Tar::new().folder("a", 0o755).folder("b", 0o755).file("a/x", "");
    below.folder("c", 0o755).folder("c/d", 0o755).file("b/gone", "").unpack(&root).unwrap();
    let layer = Tar::new().file("a/y", "").file("b/.wh.gone", "").folder("c/d", 0o700);
    layer.unpack(&root).unwrap();
    for folder in ["a", "b", "c", "c/d"] {
        assert_eq!(fs::metadata(root.join(folder)).unwrap().mtime(), 1_000_000_000, "{folder}");
    }
}

#[test]
fn what_aufs_kept_for_itself_is_left_out() {
    let outer = root();
    let root = outer.path().join("root");
    let layer = Tar::new().file(".wh..wh.aufs", "").folder(".wh..wh.plnk", 0o700);
    layer.file(".wh..wh.plnk/1.2", "").file("a", "x").unpack(&root).unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
}

fn copied(root: &Path, into: &str, keep_kinds: bool, archive: &[u8]) -> Result<Applied> {
    let into = into.as_bytes().to_vec();
    let manner = Manner::Files { into, keep_kinds, owner: Some((5, 6)) };
    apply(Cursor::new(archive), Root::open(root.to_str().unwrap()).unwrap(), manner)
}

#[test]
fn copied_files_go_into_their_folder_and_never_out_of_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(root.join("srv/www")).unwrap();
    symlink("/srv", root.join("way")).unwrap();
    symlink("../../../..", root.join("srv/up")).unwrap();
    let archive = Tar::new()
        .folder("./", 0o700)
        .file("a", "1")
        .hard_link("twin", "a")
        .file(".wh.b", "no whiteout")
        .file("up/escaped", "2")
        .symlink("far", "/etc")
        .file("far/motd", "3")
        .bytes();
    copied(&root, "/way/", true, &archive).unwrap();
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(text("srv/a"), "1");
    assert_eq!(text("srv/.wh.b"), "no whiteout");
    assert_eq!(text("escaped"), "2", "up leads to the root, which has nothing above it");
    assert_eq!(text("etc/motd"), "3", "as seen from the container");
    assert!(!folder.path().join("escaped").exists());
    let seen = fs::metadata(root.join("srv/twin")).unwrap();
    assert_eq!((seen.nlink(), seen.uid(), seen.gid()), (2, 5, 6));
    assert_eq!(fs::metadata(root.join("srv")).unwrap().mode() & 0o777, 0o755, "it stays as it was");
    let outside = Tar::new().file("../x", "4").bytes();
    assert_eq!(copied(&root, "/srv", false, &outside).unwrap_err().kind, FailureKind::BadInput);
}

#[test]
fn a_kind_is_only_replaced_by_another_where_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("srv/folder/below")).unwrap();
    fs::write(root.join("srv/file"), "").unwrap();
    let over_folder = Tar::new().file("folder", "x").bytes();
    let over_file = Tar::new().folder("file", 0o755).bytes();
    let message = |archive: &[u8]| copied(root, "/srv", true, archive).unwrap_err().message;
    assert_eq!(
        message(&over_folder),
        r#"cannot overwrite directory "/srv/folder" with non-directory "/srv""#
    );
    assert_eq!(
        message(&over_file),
        r#"cannot overwrite non-directory "/srv/file" with directory "/srv""#
    );
    copied(root, "/srv", false, &over_folder).unwrap();
    copied(root, "/srv", false, &over_file).unwrap();
    assert!(root.join("srv/folder").is_file() && root.join("srv/file").is_dir());
}
