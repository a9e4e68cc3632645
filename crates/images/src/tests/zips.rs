//! Imports of zips: ours, InvokeV's, and those that nobody means well with.

use super::*;
use crate::{ErrorKind, ExportFormat, Kind, Layers, ZipImported};
use ireko_disk::vhdx::ChildOptions;
use std::sync::Mutex;

const GUIDS: [&str; 3] = [
    "2DC27766-F623-4200-9D64-115E9BFD4A08",
    "3dc27766-f623-4200-9d64-115e9bfd4a08",
    "4dc27766-f623-4200-9d64-115e9bfd4a08",
];

/// A store with `base ◄─ Web`, and an empty one beside it.
struct World {
    store: Store,
    there: Places,
    other: Store,
    files: PathBuf,
    folder: ForkingFolder,
}

impl World {
    fn new() -> World {
        let folder = ForkingFolder::new();
        let here = Places::make(folder.path());
        let store = here.open();
        import(&store, &here, "base", 1);
        let leaf = container(&store, &here, "base", "c", 2);
        commit(&store, &leaf, "Web");
        let there = Places::make(&folder.path().join("other"));
        let (other, files) = (there.open(), folder.path().join("files"));
        std::fs::create_dir(&files).unwrap();
        World { store, there, other, files, folder }
    }

    fn export(&self, image: &str, layers: Layers) -> PathBuf {
        let file = self.files.join(format!("{}-{layers:?}.zip", image));
        let format = ExportFormat::Zip(layers);
        let to = ExportTo { file: file.clone(), format, replace: true, disk: None };
        let id = self.store.find(image).unwrap().id;
        export(&self.store, &id, &to, &(), no_program).unwrap();
        file
    }

    /// Imports into the other store.
    fn import(&self, zip: &Path) -> crate::Result<ZipImported> {
        self.other.import_zip(zip, None, &())
    }

    /// Checks that an import is refused, and that nothing is left of it.
    #[track_caller]
    fn refused(&self, zip: &Path, kind: ErrorKind, says: &str) {
        let before = picture(&self.other, &self.there);
        let error = self.import(zip).unwrap_err();
        let told = crate::error::chain(&error).to_string();
        assert!(told.contains(says), "{told}");
        assert_eq!(error.kind(), kind, "{told}");
        assert_eq!(picture(&self.other, &self.there), before);
    }

    /// Makes a zip with Python; `script` adds to `z`, the arguments are `a`.
    fn python(&self, name: &str, script: &str, arguments: &[&Path]) -> PathBuf {
        let zip = self.files.join(name);
        let script = format!(
            "import sys, os, zipfile\na = sys.argv[2:]\n\
             z = zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\n{script}\nz.close()\n"
        );
        let mut command = Command::new("python3");
        command.args(["-W", "ignore", "-c", &script]).arg(&zip).args(arguments);
        self.folder.run(&mut command);
        zip
    }

    /// Makes a base and a child as another program would, in a folder of their own.
    fn foreign(&self) -> [PathBuf; 2] {
        let base = self.files.join(format!("Win2016_Hyper-V_{}.vhdx", GUIDS[0]));
        let child = self.files.join(format!("日本語_{}.vhdx", GUIDS[1]));
        vhdx::create(&base, &CreateOptions::new(64 << 20)).unwrap();
        let locator = format!(r"C:\InvokeV\Images\{}", base.file_name().unwrap().to_str().unwrap());
        vhdx::create_child(&child, &base, &locator, &ChildOptions::default()).unwrap();
        [base, child]
    }
}

fn names_of(images: &[ImageInfo]) -> Vec<String> {
    images.iter().flat_map(|image| image.names.iter().map(Name::familiar)).collect()
}

#[test]
fn a_tree_comes_back_with_the_same_bytes_keys_ids_and_names() {
    let world = World::new();
    world.store.tag(&world.store.find("Web").unwrap().id, &named("Zwei:2")).unwrap();
    let zip = world.export("Web", Layers::Tree);
    let imported = world.import(&zip).unwrap();
    assert_eq!(names_of(&imported.images), ["base:latest", "Web:latest", "Zwei:2"]);
    assert_eq!((imported.added.len(), imported.already_here.len()), (3, 0));
    assert!(imported.names_taken.is_empty() && imported.passed_over.is_empty());
    for image in world.store.list() {
        let copy = world.other.find(&image.id.to_string()).unwrap();
        assert_eq!((copy.guid, &copy.names), (image.guid, &image.names));
        assert_eq!((&copy.name, copy.kind, &copy.config), (&image.name, image.kind, &image.config));
        let chains = [world.store.chain(&image.file), world.other.chain(&copy.file)];
        let [chain, copies] = chains.map(Result::unwrap);
        assert_eq!(chain.len(), copies.len());
        for (file, copy) in chain.iter().zip(&copies) {
            assert_eq!(file.file_name(), copy.file_name());
            assert!(std::fs::read(file).unwrap() == std::fs::read(copy).unwrap());
        }
    }
    let again = world.other.export_zip(
        &world.other.find("Web").unwrap().id,
        Layers::Tree,
        &mut std::fs::File::create(world.files.join("again.zip")).unwrap(),
        &(),
    );
    again.unwrap();
    assert!(std::fs::read(&zip).unwrap() == std::fs::read(world.files.join("again.zip")).unwrap());
    let before = picture(&world.other, &world.there);
    drop(world.other);
    assert_eq!(picture(&world.there.open(), &world.there), before);
}

#[test]
fn layers_that_are_here_are_compared_and_kept() {
    let world = World::new();
    world.import(&world.export("base", Layers::Tree)).unwrap();
    let imported = world.import(&world.export("Web", Layers::Own)).unwrap();
    assert_eq!((imported.added.len(), imported.already_here.len()), (1, 0));
    assert_eq!(read(&world.other, &world.other.find("web").unwrap().file), 2);
    let before = picture(&world.other, &world.there);
    let again = world.import(&world.export("Web", Layers::Tree)).unwrap();
    assert_eq!((again.added.len(), again.already_here.len()), (0, 3));
    assert_eq!(again.images.len(), 2);
    assert_eq!(picture(&world.other, &world.there), before);
}

#[test]
fn a_layer_with_other_bytes_is_never_overwritten() {
    let world = World::new();
    world.import(&world.export("base", Layers::Tree)).unwrap();
    let base = world.other.find("base").unwrap().file;
    let mut bytes = std::fs::read(&base).unwrap();
    // Somewhere in the creator's name, where nothing is checked.
    bytes[100] ^= 1;
    std::fs::remove_file(&base).unwrap();
    std::fs::write(&base, &bytes).unwrap();
    let zip = world.export("Web", Layers::Tree);
    world.refused(&zip, ErrorKind::Conflict, "with other bytes than in the zip");
    assert!(std::fs::read(&base).unwrap() == bytes);
}

#[test]
fn a_parent_that_is_nowhere_is_named() {
    let world = World::new();
    let base = world.store.find("base").unwrap().file;
    let zip = world.export("Web", Layers::Own);
    world.refused(&zip, ErrorKind::BadInput, base.file_name().unwrap().to_str().unwrap());
    let error = world.import(&zip).unwrap_err();
    assert!(error.remedy().unwrap().contains("--tree"));
}

#[test]
fn a_parent_that_is_nowhere_is_missed_before_all_is_unpacked() {
    let world = World::new();
    let [_, child] = world.foreign();
    std::fs::OpenOptions::new().write(true).open(&child).unwrap().set_len(32 << 20).unwrap();
    let script = "z.write(a[0], os.path.basename(a[0])); z.filelist[0].CRC ^= 1";
    let zip = world.python("damaged.zip", script, &[&child]);
    world.refused(&zip, ErrorKind::BadInput, "neither in the zip nor in the store");
}

#[test]
fn a_layer_that_was_an_image_is_one_again() {
    let world = World::new();
    world.import(&world.export("Web", Layers::Tree)).unwrap();
    let base = world.other.find("base").unwrap();
    world.other.remove("base", true, &[]).unwrap();
    assert!(world.other.find("base").is_err());
    let imported = world.import(&world.export("base", Layers::Own)).unwrap();
    assert_eq!((imported.added.len(), imported.already_here.len()), (0, 1));
    assert_eq!(world.other.find("base").unwrap().id, base.id);
    picture(&world.other, &world.there);
}

#[test]
fn a_zip_as_invokev_makes_it_becomes_machine_images_under_their_own_names() {
    let world = World::new();
    let [base, child] = world.foreign();
    for (number, script) in [
        "[z.write(f, os.path.basename(f)) for f in a]",
        // As Windows' own archiver once did, in a folder, uncompressed; and a file of macOS.
        "[z.write(f, 'Export\\\\' + os.path.basename(f), zipfile.ZIP_STORED) for f in a]\n\
         z.writestr('__MACOSX/._x', b'')\nz.writestr('Export/readme.txt', b'read me')",
    ]
    .iter()
    .enumerate()
    {
        let zip = world.python(&format!("{number}.zip"), script, &[&child, &base]);
        let imported = world.import(&zip).unwrap();
        assert_eq!(names_of(&imported.images), ["Win2016_Hyper-V:latest", "日本語:latest"]);
        assert_eq!(imported.passed_over.len(), 2 * number);
        let image = world.other.find("日本語").unwrap();
        assert_eq!((image.guid.to_string().as_str(), image.kind), (GUIDS[1], Kind::Machine));
        assert!(std::fs::read(&image.file).unwrap() == std::fs::read(&child).unwrap());
        assert_eq!(image.depth, 2);
    }
    assert_eq!(world.other.list().len(), 2);
    picture(&world.other, &world.there);
}

#[test]
fn a_parent_that_is_called_otherwise_here_is_found_by_its_key_and_linked() {
    let world = World::new();
    let [base, child] = world.foreign();
    let renamed = world.files.join(format!("server_{}.vhdx", GUIDS[0]));
    std::fs::rename(&base, &renamed).unwrap();
    let script = "[z.write(f, os.path.basename(f)) for f in a]";
    let first = world.python("base.zip", script, &[&renamed]);
    let second = world.python("child.zip", script, &[&child]);
    let both = world.python("both.zip", script, &[&child, &renamed]);
    world.refused(&second, ErrorKind::BadInput, "Win2016_Hyper-V");
    world.import(&first).unwrap();
    world.import(&second).unwrap();
    let image = world.other.find("日本語").unwrap();
    assert_eq!(image.parent_image, Some(world.other.find("server").unwrap().id));
    picture(&world.other, &world.there);
    let imported = world.store.import_zip(&both, None, &()).unwrap();
    assert_eq!(imported.images[1].parent_image, Some(imported.images[0].id));
}

#[test]
fn disks_without_a_key_in_their_names_get_one() {
    let world = World::new();
    let [base, child] = [world.files.join("WinDev.vhdx"), world.files.join("child.VHDX")];
    vhdx::create(&base, &CreateOptions::new(64 << 20)).unwrap();
    vhdx::create_child(&child, &base, r".\WinDev.vhdx", &ChildOptions::default()).unwrap();
    let zip =
        world.python("plain.zip", "[z.write(f, os.path.basename(f)) for f in a]", &[&child, &base]);
    let imported = world.import(&zip).unwrap();
    assert_eq!(names_of(&imported.images), ["WinDev:latest", "child:latest"]);
    assert_eq!(imported.images[1].parent_image, Some(imported.images[0].id));
    let base_file = Path::new(&imported.images[0].file);
    assert!(std::fs::read(base_file).unwrap() == std::fs::read(&base).unwrap());
    // Once more they would be other images, of names that are in use.
    world.refused(&zip, ErrorKind::Conflict, "the name WinDev:latest is in use");
}

#[test]
fn a_folder_of_images_that_somebody_zipped_comes_back_under_its_names() {
    let world = World::new();
    let images = world.store.find("Web").unwrap().file.parent().unwrap().to_owned();
    let script = "[z.write(os.path.join(a[0], f), f) for f in os.listdir(a[0])]";
    let zip = world.python("folder.zip", script, &[&images]);
    let imported = world.import(&zip).unwrap();
    assert_eq!(names_of(&imported.images), ["base:latest", "Web:latest"]);
    assert_eq!(imported.images[1].id, world.store.find("Web").unwrap().id);
}

#[test]
fn a_given_name_is_the_topmost_images_and_a_name_in_use_is_not_taken() {
    let world = World::new();
    let zip = world.export("Web", Layers::Tree);
    import(&world.other, &world.there, "base", 5);
    let own = world.other.find("base").unwrap().id;
    let error = world.other.import_zip(&zip, Some(&named("base")), &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.remedy().unwrap().contains("NAME"));
    let imported = world.other.import_zip(&zip, Some(&named("shop:1")), &()).unwrap();
    assert_eq!(names_of(&imported.images), ["shop:1"]);
    assert_eq!(imported.names_taken, ["base:latest"]);
    assert_eq!(world.other.find("base").unwrap().id, own);
    assert_eq!(world.other.find("shop:1").unwrap().id, world.store.find("Web").unwrap().id);
    picture(&world.other, &world.there);
}

#[test]
fn archives_that_no_honest_program_makes_are_refused() {
    let world = World::new();
    let [base, child] = world.foreign();
    let name = format!("x_{}.vhdx", GUIDS[2]);
    let link = "i = zipfile.ZipInfo(n)\ni.external_attr = 0o120777 << 16\n\
                z.writestr(i, b'/etc/passwd')";
    for (number, (says, script)) in [
        ("leads out of the folder", "z.write(a[0], '../' + n)"),
        ("leads out of the folder", "z.write(a[0], 'x\\\\..\\\\..\\\\' + n)"),
        ("is an absolute path", "z.writestr(zipfile.ZipInfo('/' + n), b'x')"),
        ("is an absolute path", "z.write(a[0], 'C:\\\\' + n)"),
        ("is a link", link),
        ("two entries called", "z.write(a[0], n); z.write(a[0], n)"),
        ("has the same GUID as", "z.write(a[0], n); z.write(a[0], 'y/' + n.upper())"),
        ("is compressed by method 12", "z.write(a[0], n, zipfile.ZIP_BZIP2)"),
        ("holds no VHDX file", "z.writestr('readme.txt', b'')"),
        ("is no VHDX file", "z.writestr(n, b'x' * 5000)"),
        ("of the zip", "z.writestr(n, b'vhdxfile' + bytes(5000))"),
        ("of the zip", "d = open(a[0], 'rb').read(); z.writestr(n, d[:1 << 20] + bytes(9 << 20))"),
        ("of the zip", "d = open(a[0], 'rb').read(); z.writestr(n, d[:len(d) // 2])"),
        ("is empty", "z.writestr(n, b'')"),
        ("longer than any VHDX", "z.write(a[0], n); z.filelist[0].file_size = 1 << 60"),
        ("and not the", "z.write(a[0], n); z.filelist[0].file_size += 9"),
        ("longer than the", "z.write(a[0], n); z.filelist[0].file_size -= 9"),
        ("cannot be read", "z.write(a[0], n); z.filelist[0].CRC ^= 1"),
        ("it speaks of", "z.write(a[0], n); z.writestr(n[:-4] + 'json', j)"),
        (
            "is not what the directory says",
            "z.write(a[0], n); z.writestr('b', b'x')\n\
             z.filelist[1].header_offset = z.filelist[0].header_offset",
        ),
    ]
    .iter()
    .enumerate()
    {
        let json = format!(
            r#"{{"version":1,"guid":"{}","role":"layer","kind":"app","name":"x"}}"#,
            GUIDS[1]
        );
        let script = format!("n = '{name}'; j = '{json}'\n{script}");
        let zip = world.python(&format!("bad-{number}.zip"), &script, &[&base]);
        world.refused(&zip, ErrorKind::BadInput, says);
    }
    let mut command = Command::new("zip");
    let locked = world.files.join("locked.zip");
    command.args(["-qj", "-P", "secret"]).arg(&locked).args([&base, &child]);
    world.folder.run(&mut command);
    world.refused(&locked, ErrorKind::BadInput, "is encrypted");

    let whole = std::fs::read(world.export("Web", Layers::Tree)).unwrap();
    let cut = world.files.join("cut.zip");
    for length in [0, 30, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cut, &whole[..length]).unwrap();
        world.refused(&cut, ErrorKind::BadInput, "");
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 4] ^= 0x10;
    std::fs::write(&cut, &flipped).unwrap();
    world.refused(&cut, ErrorKind::BadInput, "cannot be read");
}

#[test]
fn a_file_that_its_disk_does_not_explain_is_refused_before_it_is_unpacked() {
    let world = World::new();
    let [base, _] = world.foreign();
    let file = std::fs::OpenOptions::new().write(true).open(&base).unwrap();
    file.set_len(400 << 30).unwrap();
    let disk = ireko_disk::FileStorage::open(&base, ireko_disk::Lock::Read).unwrap();
    let bomb = world.files.join("bomb.zip");
    let mut out = std::fs::File::create(&bomb).unwrap();
    let mut zip = crate::zip_writer::ZipWriter::new(&mut out, Timestamp::UNIX_EPOCH);
    zip.add(base.file_name().unwrap().to_str().unwrap(), &disk, &mut |_| Ok(())).unwrap();
    zip.finish().unwrap();
    world.refused(&bomb, ErrorKind::BadInput, "not an honest VHDX file");
}

#[test]
fn chains_that_lead_nowhere_are_refused() {
    let world = World::new();
    let [base, child] = world.foreign();
    let script = "[z.write(f, os.path.basename(f)) for f in a]";

    // Another disk of the parent's name and key.
    let aside = world.files.join("aside");
    std::fs::rename(&base, &aside).unwrap();
    vhdx::create(&base, &CreateOptions::new(64 << 20)).unwrap();
    let zip = world.python("foreign.zip", script, &[&child, &base]);
    world.refused(&zip, ErrorKind::BadInput, "neither in the zip nor in the store");

    // Two that stand on each other.
    let guid = |path: &Path| vhdx::info(path).unwrap().data_write_guid;
    std::fs::remove_file(&base).unwrap();
    let locator = format!(r".\{}", child.file_name().unwrap().to_str().unwrap());
    vhdx::create_child(&base, &child, &locator, &ChildOptions::default()).unwrap();
    // The child is told that this is its parent.
    std::fs::rename(&base, world.files.join("over-child")).unwrap();
    std::fs::rename(&aside, &base).unwrap();
    let other = world.files.join("over-child");
    let linkage = guid(&other);
    let patched = patched_linkage(&std::fs::read(&child).unwrap(), &guid(&base), &linkage);
    std::fs::write(&child, patched).unwrap();
    std::fs::rename(&other, &base).unwrap();
    let zip = world.python("cycle.zip", script, &[&child, &base]);
    world.refused(&zip, ErrorKind::BadInput, "stands on itself");
}

/// Puts another parent's identity into a child's locator, where it stands as UTF-16 text.
fn patched_linkage(file: &[u8], old: &ireko_disk::Guid, new: &ireko_disk::Guid) -> Vec<u8> {
    let utf16 =
        |text: String| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let (old, new) = (utf16(old.to_string()), utf16(new.to_string()));
    let lower = |bytes: &[u8]| bytes.to_ascii_lowercase();
    let at = file
        .windows(old.len())
        .position(|window| lower(window) == lower(&old))
        .expect("the locator names the parent");
    let mut file = file.to_owned();
    file[at..at + new.len()].copy_from_slice(&new);
    file
}

#[test]
fn a_cancelled_import_leaves_nothing() {
    struct Stop(Mutex<usize>);
    impl Watch for Stop {
        fn advanced(&self, done: u64, total: u64) {
            assert!(done <= total);
        }
        fn cancelled(&self) -> bool {
            let mut left = self.0.lock().unwrap();
            *left = left.saturating_sub(1);
            *left == 0
        }
    }
    let world = World::new();
    let zip = world.export("Web", Layers::Tree);
    let before = picture(&world.other, &world.there);
    for asked in 1.. {
        let stop = Stop(Mutex::new(asked));
        match world.other.import_zip(&zip, None, &stop) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
        }
        assert_eq!(picture(&world.other, &world.there), before);
    }
}

#[test]
fn of_two_that_import_the_same_zip_at_once_one_is_refused() {
    struct Other<'a>(&'a Store, PathBuf, Mutex<bool>);
    impl Watch for Other<'_> {
        fn advanced(&self, _: u64, _: u64) {
            if !std::mem::replace(&mut *self.2.lock().unwrap(), true) {
                let error = self.0.import_zip(&self.1, None, &()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            }
        }
        fn cancelled(&self) -> bool {
            false
        }
    }
    let world = World::new();
    let zip = world.export("Web", Layers::Tree);
    let other = Other(&world.other, zip.clone(), Mutex::default());
    world.other.import_zip(&zip, None, &other).unwrap();
    assert_eq!(names_of(&world.other.list()).len(), 2);
    picture(&world.other, &world.there);
    assert_eq!(world.import(&zip).unwrap().already_here.len(), 3);
}

#[test]
fn a_full_disk_leaves_nothing_of_an_import() {
    let world = World::new();
    let zip = world.export("Web", Layers::Tree);
    let before = picture(&world.other, &world.there);
    for writes in 0.. {
        match crate::step::test::full_from(writes, || world.import(&zip)) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
        }
        assert_eq!(picture(&world.other, &world.there), before, "after {writes} writes");
    }
    assert_eq!(picture(&world.other, &world.there).files, 3);
}
