//! Importing disks, by the files of others: right ones, wrong ones, hostile ones.

mod archives;
mod parents;

use super::*;
use crate::{ErrorKind, Filled, Kind, Recognised, recognise};
use ireko_disk::{Format, Guid, first_difference, vhd};
use std::io::Read as _;
use std::os::unix::fs::FileExt;

const GUID: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";

/// A store, and a folder for files of others.
///
/// Its tests run programs, so they cannot promise that nobody forks; nor do they need that others do
/// not, since a lock is let go of explicitly.
struct Scene {
    _folder: tempfile::TempDir,
    places: Places,
    outside: PathBuf,
    store: Store,
}

fn scene() -> Scene {
    let folder = temporary();
    let places = Places::make(folder.path());
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let store = places.open();
    Scene { _folder: folder, places, outside, store }
}

impl Scene {
    fn path(&self, name: &str) -> PathBuf {
        self.outside.join(name)
    }

    fn import(&self, file: &Path, name: Option<&str>) -> Result<ImageInfo, Error> {
        import_disk(&self.store, file, name)
    }

    /// Imports something that must be refused, and looks that nothing is left of it.
    #[track_caller]
    fn refused(&self, file: &Path, name: Option<&str>, told: &str) -> Error {
        let before = listing(&self.places.root);
        let digest = std::fs::read(file).ok();
        let error = self.import(file, name).unwrap_err();
        let chain = crate::error::chain(&error).to_string();
        assert!(chain.contains(told), "{chain}");
        assert_eq!(listing(&self.places.root), before);
        assert!(std::fs::read(file).ok() == digest, "the file given is never changed");
        error
    }
}

pub(super) fn import_disk(
    store: &Store,
    file: &Path,
    name: Option<&str>,
) -> Result<ImageInfo, Error> {
    let mut pending = store.begin_disk(file, recognise(file, None)?, name)?;
    while let Filled::ToConvert(conversion) = store.fill_disk(&mut pending, &())? {
        // What it makes of hostile files is the publishing's affair.
        output(&mut super::qemu_img(&conversion)).unwrap();
    }
    store.publish_disk(pending, "imported by a test")
}

fn qemu_img(arguments: &[&str]) {
    let made = output(Command::new("qemu-img").args(arguments)).unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Every file under the root with its length and mode; the reserve too.
fn listing(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for folder in ["", "images", "journal", "containers"] {
        for name in durable::names_in(&root.join(folder)).unwrap() {
            let path = root.join(folder).join(&name);
            all.push(format!("{folder}/{name} {}", std::fs::metadata(path).unwrap().len()));
        }
    }
    all
}

/// Writes a raw disk of 24 MiB with a partition table, data and holes.
fn raw_disk(path: &Path) {
    let disk = std::fs::File::create(path).unwrap();
    disk.set_len(24 << 20).unwrap();
    let mut table = [0; 512];
    table[450] = 0x83;
    table[454..458].copy_from_slice(&2048u32.to_le_bytes());
    table[458..462].copy_from_slice(&4096u32.to_le_bytes());
    table[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.write_all_at(&table, 0).unwrap();
    let mut noise = 1u64;
    for at in [1u64 << 20, 5 << 20, 17 << 20, (24 << 20) - 65536] {
        let data: Vec<u8> = (0..65536)
            .map(|_| {
                noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (noise >> 56) as u8
            })
            .collect();
        disk.write_all_at(&data, at).unwrap();
    }
}

/// Compares an image's whole disk with what qemu-img makes of the file it came from.
#[track_caller]
fn assert_same_disk(scene: &Scene, image: &ImageInfo, source: &Path, format: &str) {
    let raw = scene.path("witness.raw");
    let source = source.to_str().unwrap();
    qemu_img(&["convert", "-f", format, "-O", "raw", source, raw.to_str().unwrap()]);
    let image = Chain::open(&scene.store.chain(&image.file).unwrap(), Access::ReadOnly).unwrap();
    let witness = Chain::open_as(&raw, Format::Raw, Access::ReadOnly).unwrap();
    assert_eq!(image.geometry().virtual_size, witness.geometry().virtual_size, "{format}");
    assert_eq!(first_difference(&image, &witness, &()).unwrap(), None, "{format}");
    std::fs::remove_file(raw).unwrap();
}

#[test]
fn every_format_becomes_an_image_with_the_same_bytes() {
    let scene = scene();
    let raw = scene.path("disk.raw");
    raw_disk(&raw);
    let image = scene.import(&raw, Some("raw")).unwrap();
    assert_same_disk(&scene, &image, &raw, "raw");
    assert_eq!((image.kind, image.depth, image.parent_image), (Kind::Machine, 1, None));
    for (format, options) in [
        ("vhdx", "subformat=dynamic"),
        ("vhdx", "subformat=fixed"),
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("qcow2", "compat=0.10"),
        ("qcow2", "compat=1.1,compression_type=zstd,extended_l2=on"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vdi", "static=off"),
        ("vdi", "static=on"),
    ] {
        let file = scene.path("any.name");
        let (from, to) = (raw.to_str().unwrap(), file.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", format, "-o", options, from, to]);
        let digest = std::fs::read(&file).unwrap();
        let name = format!("{format}:{}", options.len());
        let image = scene.import(&file, Some(&name)).unwrap();
        assert_same_disk(&scene, &image, &file, format);
        assert_eq!(image.names[0].short(), name);
        assert!(std::fs::read(&file).unwrap() == digest, "the file given is never changed");
        assert!(image.own_bytes < 24 << 20, "{format} takes {} bytes", image.own_bytes);
    }
    picture_of_disks(&scene);
}

/// As `picture`, for disks that are smaller than the mark's place.
#[track_caller]
fn picture_of_disks(scene: &Scene) {
    let journal = durable::names_in(&scene.places.root.join("journal")).unwrap();
    assert_eq!(journal, ["reserve"]);
    let before = scene.store.list().len();
    let again = listing(&scene.places.root);
    assert_eq!(scene.places.open().list().len(), before);
    assert_eq!(listing(&scene.places.root), again, "a start changes nothing");
}

#[test]
fn a_vhdx_keeps_the_guid_of_its_name_as_its_key() {
    let scene = scene();
    let file = scene.path(&format!("Win2016_Hyper-V_{}.vhdx", GUID.to_uppercase()));
    vhdx::create(&file, &CreateOptions::new(64 << 20)).unwrap();
    let image = scene.import(&file, None).unwrap();
    assert_eq!((image.guid.to_string(), image.name.as_str()), (GUID.into(), "Win2016_Hyper-V"));
    assert_eq!(image.file.file_name().unwrap(), &*format!("Win2016_Hyper-V_{GUID}.vhdx"));
    assert_eq!(scene.store.find("win2016_hyper-v").unwrap().id, image.id);
    assert!(std::fs::read(&image.file).unwrap() == std::fs::read(&file).unwrap());

    let error = scene.refused(&file, Some("other"), GUID);
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("the image Win2016_Hyper-V:latest"), "{error}");
}

#[test]
fn the_name_that_is_given_is_the_images_name() {
    let scene = scene();
    let file = scene.path(&format!("old_{GUID}.vhdx"));
    vhdx::create(&file, &CreateOptions::new(64 << 20)).unwrap();
    let image = scene.import(&file, Some("日本語:1")).unwrap();
    assert_eq!(image.names[0].familiar(), "日本語:1");
    assert_eq!(image.file.file_name().unwrap(), &*format!("日本語_1_{GUID}.vhdx"));
    assert!(scene.store.find("old").is_err());
}

#[test]
fn a_name_that_is_in_use_is_refused_in_any_case() {
    let scene = scene();
    import(&scene.store, &scene.places, "web", 1);
    let file = scene.path("WEB.vhdx");
    vhdx::create(&file, &CreateOptions::new(64 << 20)).unwrap();
    for name in [None, Some("web"), Some("Web"), Some("web:latest")] {
        let error = scene.refused(&file, name, "the name web:latest is in use");
        assert_eq!((error.kind(), error.remedy().is_some()), (ErrorKind::Conflict, true));
    }
    scene.import(&file, Some("web:2")).unwrap();
}

#[test]
fn of_two_imports_of_one_file_or_name_one_succeeds() {
    let scene = scene();
    let file = scene.path(&format!("a_{GUID}.vhdx"));
    vhdx::create(&file, &CreateOptions::new(64 << 20)).unwrap();
    let what = recognise(&file, None).unwrap();
    let mut first = scene.store.begin_disk(&file, what, None).unwrap();
    for name in [None, Some("b")] {
        let error = scene.store.begin_disk(&file, what, name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    let other = scene.path("A.vhdx");
    vhdx::create(&other, &CreateOptions::new(64 << 20)).unwrap();
    assert!(scene.store.begin_disk(&other, what, None).is_err());
    assert_eq!(scene.store.fill_disk(&mut first, &()).unwrap(), Filled::Whole);
    // Somebody else takes the name meanwhile, by docker's words.
    import(&scene.store, &scene.places, "a", 1);
    let error = scene.store.publish_disk(first, "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    scene.import(&file, Some("c")).unwrap();
}

#[test]
fn an_import_that_is_dropped_or_cancelled_leaves_nothing() {
    struct Cancelled;
    impl crate::Watch for Cancelled {
        fn advanced(&self, _: u64, _: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let scene = scene();
    let raw = scene.path("disk.raw");
    raw_disk(&raw);
    let before = listing(&scene.places.root);
    for file in ["raw", "vhdx", "vpc"] {
        let made = scene.path(file);
        qemu_img(&[
            "convert",
            "-f",
            "raw",
            "-O",
            file,
            raw.to_str().unwrap(),
            made.to_str().unwrap(),
        ]);
        let what = recognise(&made, None).unwrap();
        let mut pending = scene.store.begin_disk(&made, what, None).unwrap();
        scene.store.fill_disk(&mut pending, &Cancelled).unwrap_err();
        drop(pending);
        let mut pending = scene.store.begin_disk(&made, what, None).unwrap();
        scene.store.fill_disk(&mut pending, &()).unwrap();
        drop(pending);
        assert_eq!(listing(&scene.places.root), before, "{file}");
    }
}

#[test]
fn a_dirty_log_is_replayed_and_the_children_still_know_the_file() {
    let scene = scene();
    let file = scene.path(&format!("dirty_{GUID}.vhdx"));
    vhdx::create(&file, &CreateOptions::new(64 << 20)).unwrap();
    // A writer that is killed: its file is taken while the log is in use.
    let chain = Chain::open(std::slice::from_ref(&file), Access::ReadWrite).unwrap();
    chain.write_at(0, &[7; 4096]).unwrap();
    chain.flush().unwrap();
    let torn = scene.path(&format!("torn_{GUID}.vhdx"));
    copy_by_reading(&file, &torn);
    drop(chain);
    let identity = vhdx::info(&torn).unwrap();
    assert!(identity.dirty_log);
    let image = scene.import(&torn, None).unwrap();
    let info = vhdx::info(&image.file).unwrap();
    assert_eq!((info.dirty_log, info.data_write_guid), (false, identity.data_write_guid));
    let disk = Chain::open(std::slice::from_ref(&image.file), Access::ReadOnly).unwrap();
    let mut bytes = [0; 4096];
    disk.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096]);
}

/// Copies a file that is locked.
fn copy_by_reading(from: &Path, to: &Path) {
    let mut bytes = Vec::new();
    std::fs::File::open(from).unwrap().read_to_end(&mut bytes).unwrap();
    std::fs::write(to, bytes).unwrap();
}

#[test]
fn a_file_that_is_being_written_to_is_refused() {
    let scene = scene();
    let file = scene.path("busy.vhdx");
    vhdx::create(&file, &CreateOptions::new(64 << 20)).unwrap();
    let chain = Chain::open(std::slice::from_ref(&file), Access::ReadWrite).unwrap();
    let error = scene.refused(&file, None, "in use");
    assert_eq!(error.kind(), ErrorKind::InUse);
    drop(chain);
    scene.import(&file, None).unwrap();
}

#[test]
fn damaged_and_cut_off_files_are_refused() {
    let scene = scene();
    let raw = scene.path("disk.raw");
    raw_disk(&raw);
    for format in ["vhdx", "vpc", "qcow2", "vmdk", "vdi"] {
        let file = scene.path(format);
        let (from, to) = (raw.to_str().unwrap(), file.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", format, from, to]);
        let length = std::fs::metadata(&file).unwrap().len();
        let cut = std::fs::File::options().write(true).open(&file).unwrap();
        for keep in [length - 65536, length / 2, 70_000, 600] {
            cut.set_len(keep).unwrap();
            scene.refused(&file, Some("cut"), "");
        }
    }
}

#[test]
fn a_differencing_vhd_is_refused_with_the_cure() {
    let scene = scene();
    let (base, child) = (scene.path("base.vhd"), scene.path("child.vhd"));
    vhd::create(&base, &vhd::CreateOptions::new(8 << 20)).unwrap();
    vhd::create_child(&child, &base, r".\base.vhd", &vhd::ChildOptions::default()).unwrap();
    let error = scene.refused(&child, None, "differencing VHD");
    assert!(error.remedy().unwrap().contains("flatten"));
}

#[test]
fn what_is_no_disk_is_refused() {
    let scene = scene();
    let file = scene.path("zip");
    std::fs::write(&file, b"PK\x03\x04").unwrap();
    assert_eq!(recognise(&file, None).unwrap(), Recognised::Zip);
    scene.refused(&file, None, "is no disk");
    let text = scene.path("text");
    std::fs::write(&text, "hello").unwrap();
    scene.refused(&text, None, "nothing that is known");
    scene.refused(&scene.path("nowhere"), None, "No such file");
}
