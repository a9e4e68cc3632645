//! Exports, judged by the programs that people have: unzip, Python, 7-Zip, qemu-img.

use super::*;
use crate::{ErrorKind, ExportFormat, Layers};
use ireko_disk::{NewDisk, convert};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A store of a chain of three files, and a folder to export to.
struct World {
    places: Places,
    store: Store,
    out: PathBuf,
    folder: ForkingFolder,
}

impl World {
    fn new() -> World {
        let folder = ForkingFolder::new();
        let places = Places::make(folder.path());
        let store = places.open();
        import(&store, &places, "base", 1);
        let leaf = container(&store, &places, "base", "c", 2);
        commit(&store, &leaf, "日本 Web");
        let out = folder.path().join("out");
        std::fs::create_dir(&out).unwrap();
        World { places, store, out, folder }
    }

    fn image(&self) -> ImageId {
        self.store.find("日本 Web").unwrap().id
    }

    fn to(&self, name: &str, format: ExportFormat) -> ExportTo {
        ExportTo { file: self.out.join(name), format, replace: false, disk: None }
    }

    fn try_export(&self, to: &ExportTo, watch: &dyn Watch) -> Result<Exported, Error> {
        let run = |command: &mut Command| drop(self.folder.run(command));
        super::export(&self.store, &self.image(), to, watch, run)
    }

    fn export(&self, name: &str, format: ExportFormat) -> PathBuf {
        let to = self.to(name, format);
        let exported = self.try_export(&to, &()).unwrap();
        assert_eq!(exported.bytes, std::fs::metadata(&to.file).unwrap().len());
        self.check_nothing_else(&[name]);
        to.file
    }

    #[track_caller]
    fn check_nothing_else(&self, names: &[&str]) {
        let there = durable::names_in(&self.out).unwrap();
        assert!(names.iter().all(|name| there.iter().any(|there| there == name)), "{there:?}");
        assert!(there.iter().all(|name| !name.starts_with('.')), "{there:?}");
        picture(&self.store, &self.places);
    }

    /// The files of the image's chain, base first.
    fn chain(&self) -> Vec<PathBuf> {
        let mut chain = self.store.chain(&self.store.find("日本 Web").unwrap().file).unwrap();
        chain.reverse();
        chain
    }
}

#[track_caller]
fn run(folder: &ForkingFolder, program: &str, arguments: &[&str], file: &Path) -> String {
    folder.run(Command::new(program).args(arguments).arg(file))
}

fn base_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// What Python says is in a zip: names in order, and whether all sums are right.
fn listed(folder: &ForkingFolder, zip: &Path) -> Vec<String> {
    let script = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\n\
                  assert z.testzip() is None\nprint('\\n'.join(z.namelist()))";
    run(folder, "python3", &["-c", script], zip).lines().map(str::to_owned).collect()
}

#[test]
fn a_zip_of_a_tree_is_read_by_every_tool_and_holds_the_files_base_first() {
    let world = World::new();
    let zip = world.export("web.zip", ExportFormat::Zip(Layers::Tree));
    let chain = world.chain();
    let names: Vec<String> = chain
        .iter()
        .flat_map(|file| [base_name(file).to_owned(), crate::names::sidecar_file(base_name(file))])
        .collect();
    assert_eq!(listed(&world.folder, &zip), names);
    run(&world.folder, "unzip", &["-tq"], &zip);
    run(&world.folder, "7zz", &["t"], &zip);
    let lines = run(&world.folder, "unzip", &["-Z1"], &zip);
    assert_eq!(lines.lines().collect::<Vec<_>>(), names);

    let mut archive = zip::ZipArchive::new(std::fs::File::open(&zip).unwrap()).unwrap();
    archive.validate_header_consistency().unwrap();
    for file in &chain {
        let mut bytes = Vec::new();
        std::io::copy(&mut archive.by_name(base_name(file)).unwrap(), &mut bytes).unwrap();
        assert!(bytes == std::fs::read(file).unwrap(), "{}", file.display());
    }
}

#[test]
fn a_zip_without_the_tree_holds_the_images_own_file_alone() {
    let world = World::new();
    let zip = world.export("web.zip", ExportFormat::Zip(Layers::Own));
    let own = base_name(&world.store.find("日本 Web").unwrap().file).to_owned();
    assert_eq!(listed(&world.folder, &zip), [own.clone(), crate::names::sidecar_file(&own)]);
}

#[test]
fn equal_images_make_equal_zips_wherever_they_go() {
    let world = World::new();
    for layers in [Layers::Own, Layers::Tree] {
        let name = format!("{layers:?}.zip");
        let file = std::fs::read(world.export(&name, ExportFormat::Zip(layers))).unwrap();
        let mut piped = Vec::new();
        let told = world.store.export_zip(&world.image(), layers, &mut piped, &()).unwrap();
        assert!(file == piped);
        assert_eq!(told.bytes, piped.len() as u64);
    }
}

#[test]
fn a_file_longer_than_32_bits_tell_is_read_by_every_tool() {
    let folder = ForkingFolder::new();
    let path = folder.path().join("long.zip");
    let disk = folder.path().join("disk");
    let storage = ireko_disk::FileStorage::create(&disk).unwrap();
    let length = (4_u64 << 30) + 4096;
    ireko_disk::Storage::set_len(&storage, length).unwrap();
    ireko_disk::Storage::write_at(&storage, length - 4, b"last").unwrap();
    let mut file = std::fs::File::create(&path).unwrap();
    let mut zip = crate::zip_writer::ZipWriter::new(&mut file, Timestamp::UNIX_EPOCH);
    zip.add("long", &storage, &mut |_| Ok(())).unwrap();
    zip.add("short", &ireko_disk::MemoryStorage::new(b"x".to_vec()), &mut |_| Ok(())).unwrap();
    zip.finish().unwrap();
    assert!(run(&folder, "unzip", &["-l"], &path).contains(&length.to_string()));
    run(&folder, "7zz", &["t"], &path);
    let script = "import sys, zipfile\nfor e in zipfile.ZipFile(sys.argv[1]).infolist(): \
                  print(e.filename, e.file_size)";
    let told = run(&folder, "python3", &["-c", script], &path);
    assert_eq!(told, format!("long {length}\nshort 1\n"));
}

#[test]
fn every_flattened_format_reads_the_same_to_qemu_img() {
    let world = World::new();
    let formats = [
        ("a.vhdx", ExportFormat::Vhdx, "vhdx"),
        ("a.vhd", ExportFormat::Vhd, "vpc"),
        ("fixed.vhd", ExportFormat::VhdFixed, "vpc"),
        ("a.qcow2", ExportFormat::Qcow2, "qcow2"),
        ("a.vmdk", ExportFormat::Vmdk, "vmdk"),
        ("a.raw", ExportFormat::Raw, "raw"),
    ];
    let mut files = world.chain();
    files.reverse();
    let disk = Chain::open(&files, Access::ReadOnly).unwrap();
    let expected = world.places.cache.join("expected");
    convert(&disk, &expected, &NewDisk::Raw, &()).unwrap();
    let expected = std::fs::read(&expected).unwrap();
    assert_eq!(expected[MARK as usize], 2);
    for (name, format, qemu) in formats {
        let file = world.export(name, format);
        let raw = world.places.cache.join(format!("{name}.again"));
        let arguments = ["convert", "-f", qemu, "-O", "raw", file.to_str().unwrap()];
        run(&world.folder, "qemu-img", &arguments, &raw);
        assert!(std::fs::read(&raw).unwrap() == expected, "{name}");
        if !matches!(qemu, "raw" | "vpc") {
            run(&world.folder, "qemu-img", &["check", "-q", "-f", qemu], &file);
        }
    }
    let fixed = std::fs::metadata(world.out.join("fixed.vhd")).unwrap().len();
    assert_eq!((fixed - 512) % (1 << 20), 0);
}

#[test]
fn a_file_that_is_there_stays_unless_it_is_to_be_replaced() {
    let world = World::new();
    for format in [ExportFormat::Zip(Layers::Own), ExportFormat::Raw] {
        let mut to = world.to("there", format);
        std::fs::write(&to.file, "mine").unwrap();
        let error = world.try_export(&to, &()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.remedy().unwrap().contains("--force"));
        assert_eq!(std::fs::read(&to.file).unwrap(), b"mine");
        to.replace = true;
        world.try_export(&to, &()).unwrap();
        assert_ne!(std::fs::read(&to.file).unwrap(), b"mine");
        world.check_nothing_else(&["there"]);
    }
}

#[test]
fn what_is_no_place_for_an_export_is_refused() {
    let world = World::new();
    std::fs::create_dir(world.out.join("folder")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.out.join("socket")).unwrap();
    for (file, kind) in [
        (world.out.join("socket"), ErrorKind::BadInput),
        (world.places.root.join("images/x.zip"), ErrorKind::BadInput),
        (PathBuf::from("x.zip"), ErrorKind::BadInput),
        (PathBuf::from("/"), ErrorKind::BadInput),
        (world.out.join("folder"), ErrorKind::BadInput),
        (world.out.join("no/x.zip"), ErrorKind::NotFound),
    ] {
        let to =
            ExportTo { file, format: ExportFormat::Zip(Layers::Own), replace: true, disk: None };
        let error = world.try_export(&to, &()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    world.check_nothing_else(&["folder", "socket"]);
}

/// Stops the work after some reports.
struct Stop {
    after: usize,
    reports: AtomicUsize,
}

impl Watch for Stop {
    fn advanced(&self, done: u64, total: u64) {
        assert!(done <= total);
        self.reports.fetch_add(1, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.reports.load(Ordering::Relaxed) >= self.after
    }
}

#[test]
fn a_cancelled_export_leaves_nothing() {
    let world = World::new();
    for format in [ExportFormat::Zip(Layers::Tree), ExportFormat::Vhdx, ExportFormat::Qcow2] {
        for after in [0, 1, 3] {
            let stop = Stop { after, reports: AtomicUsize::new(0) };
            let to = world.to("never", format);
            let error = world.try_export(&to, &stop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{format:?} after {after}: {error}");
            assert!(durable::names_in(&world.out).unwrap().is_empty());
        }
    }
    world.check_nothing_else(&[]);
}

#[test]
fn an_export_of_a_full_disk_leaves_nothing() {
    let world = World::new();
    for format in [ExportFormat::Zip(Layers::Tree), ExportFormat::Vhd, ExportFormat::Vmdk] {
        for writes in 0.. {
            let to = world.to(&format!("{format:?}"), format);
            let outcome = crate::step::test::full_from(writes, || world.try_export(&to, &()));
            match outcome {
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
            }
            assert!(!to.file.exists());
            world.check_nothing_else(&[]);
        }
    }
}

#[test]
fn an_image_that_is_being_exported_is_not_swept() {
    /// Removes the image when the export is under way.
    struct Remover<'a>(&'a Store);
    impl Watch for Remover<'_> {
        fn advanced(&self, _: u64, _: u64) {
            // The second time it is gone already.
            let _ = self.0.remove("日本 Web", true, &[]);
        }

        fn cancelled(&self) -> bool {
            false
        }
    }
    let world = World::new();
    std::fs::remove_dir_all(world.places.container("c")).unwrap();
    let to = world.to("web.zip", ExportFormat::Zip(Layers::Tree));
    world.try_export(&to, &Remover(&world.store)).unwrap();
    assert!(world.store.find("日本 Web").is_err());
    run(&world.folder, "unzip", &["-tq"], &to.file);
    world.store.collect();
    world.check_nothing_else(&["web.zip"]);
}
