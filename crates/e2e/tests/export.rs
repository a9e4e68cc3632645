//! Images as files: out of one root, judged by other programs, and into another.

use ireko_e2e::World;
use ireko_e2e::programs::{Ran, run};
use ireko_e2e::slots::Vms;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A root with `base` and an image on top of it.
fn world() -> World {
    let world = World::new("export", Vms::None);
    world.ok(&["create", "--name", "source", "base", "true"]);
    world.ok(&["commit", "source", "Web"]);
    world
}

#[track_caller]
fn witness(program: &str, arguments: &[&str], file: &Path) -> String {
    run(Command::new(program).args(arguments).arg(file)).ok()
}

fn ids(world: &World) -> Vec<String> {
    let listed = world.ok(&["images", "-q", "--no-trunc"]);
    let mut ids: Vec<_> = listed.lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

/// What is in a root's folders of images and of work under way.
fn files(world: &World) -> Vec<String> {
    let folders = ["images", "journal"].map(|folder| world.root().join(folder));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut files: Vec<_> = entries.map(|it| it.unwrap().path().display().to_string()).collect();
    files.sort();
    files
}

#[test]
fn a_tree_leaves_as_a_zip_and_comes_into_an_empty_root() {
    let world = world();
    let (zip, piped) = (world.root().join("web.zip"), tempfile::tempdir().unwrap());
    let out = piped.path().join("web.zip");
    let to_store = world.run(&["image", "export", "Web", zip.to_str().unwrap(), "--tree"]);
    to_store.fails_with(1, "lies within the store");

    let told = world.ok(&["image", "export", "Web", out.to_str().unwrap(), "--tree"]);
    assert_eq!(told, out.to_str().unwrap());
    witness("unzip", &["-tq"], &out);
    witness("python3", &["-m", "zipfile", "-t"], &out);
    witness("7zz", &["t"], &out);
    let again = world.run(&["image", "export", "Web", out.to_str().unwrap(), "--tree"]);
    again.fails_with(1, "is there already");
    world.ok(&["image", "export", "web", out.to_str().unwrap(), "--tree", "--force"]);

    let copy = piped.path().join("piped.zip");
    let mut command = world.ireko(&["image", "export", "Web", "-", "--tree"]);
    let status = command.stdout(fs::File::create(&copy).unwrap()).status().unwrap();
    assert!(status.success());
    assert!(fs::read(&copy).unwrap() == fs::read(&out).unwrap());

    let other = World::new("import of an export", Vms::None);
    other.ok(&["images"]);
    let before = files(&other);
    let own = piped.path().join("own.zip");
    world.ok(&["image", "export", "Web", own.to_str().unwrap()]);
    let parent = world.image_file("base").file_name().unwrap().to_owned();
    let refused = other.run(&["image", "import", own.to_str().unwrap()]);
    refused.fails_with(1, parent.to_str().unwrap());
    assert_eq!(files(&other), before);
    let id = other.ok(&["image", "import", out.to_str().unwrap()]);
    assert_eq!(world.inspect("Web", "/Id"), id.as_str());
    assert_eq!(ids(&other), ids(&world));
    other.ok(&["image", "rm", "Web"]);
    other.ok(&["image", "import", own.to_str().unwrap()]);
    let names = other.ok(&["images", "--json"]);
    assert!(names.contains("Web"), "{names}");
    for file in ["Web", "base"] {
        let (here, there) = (world.image_file(file), other.image_file(file));
        assert_eq!(here.file_name(), there.file_name());
        assert!(fs::read(here).unwrap() == fs::read(there).unwrap());
    }
}

#[test]
fn what_is_asked_wrongly_is_answered_with_the_cure() {
    let world = world();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let fails = |args: &[&str], code, said| -> () {
        let ran: Ran = world.run(&[&["image", "export"], args].concat());
        ran.fails_with(code, said);
    };
    fails(&["nobody", &at("x.zip")], 1, "No such image: nobody:latest");
    fails(&["Web", &at("x")], 125, "--format says it");
    fails(&["Web", &at("x.vhd")], 125, "vhd-fixed");
    fails(&["Web", &at("x.qcow2"), "--tree"], 125, "--tree is for zips");
    fails(&["Web", "-", "--format", "raw"], 125, "only a zip");
    fails(&["Web", "-", "--force"], 125, "--force");
    fails(&["Web", &at("no/x.zip")], 1, "look for the folder");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[test]
fn a_flattened_disk_is_the_same_disk_to_qemu() {
    let world = world();
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("web.raw");
    world.ok(&["image", "export", "Web", raw.to_str().unwrap()]);
    for (name, qemu) in [("web.qcow2", "qcow2"), ("web.vmdk", "vmdk"), ("web.vhdx", "vhdx")] {
        let file = folder.path().join(name);
        let json = world.ok(&["image", "export", "--json", "Web", file.to_str().unwrap()]);
        let told: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(told["format"], qemu);
        assert_eq!(told["bytes"], fs::metadata(&file).unwrap().len());
        // qemu-img reads all the zeros of a VHDX, a minute of them.
        let arguments: &[&str] = match qemu {
            "vhdx" => &["check", "-f", qemu],
            _ => &["compare", "-f", "raw", "-F", qemu, raw.to_str().unwrap()],
        };
        witness("qemu-img", arguments, &file);
    }
}
