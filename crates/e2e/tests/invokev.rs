//! A root folder that InvokeV-Container wrote opens as it is: shown, run, committed, merged, renamed,
//! exported, repaired, removed. Its systems are boot sectors that say which they are.

use ireko_disk::{Access, Chain, Disk};
use ireko_e2e::World;
use ireko_e2e::docker;
use ireko_e2e::machine::{TINY, await_line};
use ireko_e2e::programs::run;
use ireko_e2e::slots::Vms;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the text stands that [`TINY`] says first.
const TEXT: usize = 0x3c;

const GUIDS: [&str; 5] = [
    "2DC27766-F623-4200-9D64-115E9BFD4A08",
    "3DC27766-F623-4200-9D64-115E9BFD4A08",
    "4DC27766-F623-4200-9D64-115E9BFD4A08",
    "5DC27766-F623-4200-9D64-115E9BFD4A08",
    "6DC27766-F623-4200-9D64-115E9BFD4A08",
];

/// ```text
///   Images/      Win2016_Hyper-V ◄─┬─ 日本語 ◄── IIS
///                                  └─ SQL
///                Win2016-copy, the same byte for byte
///   Containers/  web/web.vhdx over IIS, web/data.vhdx;  db/db.vhdx over the copy, and a checkpoint
///                over that
/// ```
struct InvokeV {
    root: PathBuf,
}

impl InvokeV {
    fn make(world: &World) -> Self {
        let made = Self { root: world.root().to_owned() };
        for folder in ["Images", "Containers/web", "Containers/db"] {
            fs::create_dir_all(made.root.join(folder)).expect("a folder");
        }
        let (win, copy) = (made.image("Win2016_Hyper-V", 0), made.image("Win2016-copy", 1));
        world.ok(&["vhd", "create", text(&win), "-s", "8g"]);
        says(&[&win], "Windows is up");
        fs::copy(&win, &copy).expect("a copy");
        // As Windows names a parent: both ways, or beside the child alone.
        let create = |path: &Path, parent: &Path, more: &[&str]| {
            let (path, parent) = (text(path), text(parent));
            world.ok(&[&["vhd", "create", path, "-f", "vhdx", "-p", parent], more].concat());
        };
        let child = |path: &Path, parent: &Path| {
            let windows = format!(r"D:\INVOKEV\IMAGES\{}", name(parent).to_uppercase());
            create(path, parent, &["--absolute-path", &windows]);
        };
        let (ja, iis) = (made.image("日本語", 2), made.image("IIS", 3));
        create(&ja, &win, &[]);
        child(&made.image("SQL", 4), &win);
        child(&iis, &ja);
        says(&[&iis, &ja, &win], "IIS is up");
        child(&made.root.join("Containers/web/web.vhdx"), &iis);
        world.ok(&["vhd", "create", text(&made.root.join("Containers/web/data.vhdx")), "-s", "1g"]);
        let db = made.root.join("Containers/db/db.vhdx");
        child(&db, &copy);
        let checkpoint =
            made.root.join("Containers/db/db_0A1B2C3D-1111-2222-3333-444455556666.avhdx");
        child(&checkpoint, &db);
        says(&[&checkpoint, &db, &copy], "the checkpoint is up");
        made
    }

    fn image(&self, name: &str, guid: usize) -> PathBuf {
        self.root.join(format!("Images/{name}_{}.vhdx", GUIDS[guid]))
    }

    fn rename(&self, (old, guid): (&str, usize), new: &str) {
        let new = self.root.join(format!("Images/{new}.vhdx"));
        fs::rename(self.image(old, guid), new).expect("rename a file");
    }
}

/// Makes the disk of these files, leaf first, one that says this when it boots.
fn says(files: &[&Path], words: &str) {
    let mut sector = [0; 512];
    let system = [&TINY[..TEXT], words.as_bytes(), b"\r\n\0"].concat();
    sector[..system.len()].copy_from_slice(&system);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let files: Vec<_> = files.iter().map(|file| file.to_path_buf()).collect();
    let disk = Chain::open(&files, Access::ReadWrite).expect("open the disk");
    disk.write_at(0, &sector).expect("write the boot sector");
    disk.close().expect("close the disk");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a readable path")
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("a readable name")
}

/// The first column of the tree: branches and names.
fn drawn(world: &World, node: &[&str]) -> Vec<String> {
    let tree = world.ok(&[&["tree"], node].concat());
    let cut = |line: &str| {
        let name = line.trim_start_matches(['│', '├', '└', '─', ' ']);
        let branch = &line[..line.len() - name.len()];
        format!("{branch}{}", name.split("   ").next().unwrap_or_default())
    };
    tree.lines().skip(1).map(cut).collect()
}

#[test]
fn an_invokev_root_opens_as_it_is_and_every_verb_works_on_it() {
    let world = World::new("invokev", Vms::One);
    let invokev = InvokeV::make(&world);
    assert_eq!(
        drawn(&world, &[]),
        [
            "[Win2016_Hyper-V:latest]",
            "├── [日本語:latest]",
            "│   └── [IIS:latest]",
            "│       └── web + data",
            "└── [SQL:latest]",
            "[Win2016-copy:latest]",
            "└── db",
        ]
    );
    let ps = world.ok(&["ps", "-a", "--wide"]);
    let db = ps.lines().find(|line| line.contains(".avhdx")).expect("the checkpoint is the disk");
    assert!(db.ends_with("Containers/db/db.vhdx"), "{db}");

    // One name in any spelling, for docker's clients too; shown as it was given.
    let client = docker::client();
    let second = docker::ok(&client, &world, &["run", "-d", "--name", "second", "win2016_hyper-v"]);
    assert_eq!(second.len(), 64, "{second}");
    await_line(&world, "second", "Windows is up");
    world.ok(&["rm", "-f", "second"]);
    assert_eq!(world.inspect("xn--wgv71a119e", "/RepoTags/0"), "xn--wgv71a119e:latest");
    assert_eq!(world.inspect("xn--wgv71a119e", "/Ireko/Names/0"), "日本語:latest");
    world.run(&["tag", "IIS", "iis"]).fails_with(1, "are one name to docker");
    world.ok(&["image", "rename", "日本語", "Windows (ja)"]);
    for (container, words) in [("web", "IIS is up"), ("db", "the checkpoint is up")] {
        world.ok(&["start", container]);
        await_line(&world, container, words);
        world.ok(&["kill", container]);
        assert_eq!(world.ok(&["wait", container]), "137");
    }

    // The original wrote a container's second disk over the first one's image.
    let left_out = world.run(&["commit", "web", "App"]);
    assert!(left_out.stderr.contains("not in the image: data"), "{}", left_out.stderr);
    world.ok(&["commit", "--all-disks", "web", "Both"]);
    assert_eq!(world.inspect("both", "/Disks/0/Size"), 1 << 30);
    let gone = world.ok(&["image", "rm", "both"]);
    assert!(gone.starts_with("Untagged: Both:latest\nDeleted: sha256:"), "{gone}");
    world.run(&["commit", "db", "x"]).fails_with(1, "is a checkpoint over");
    assert_eq!(drawn(&world, &["web"]).last().expect("a line"), "            └── web + data");
    world.ok(&["image", "merge", "App", "Flat", "--all"]);
    let flat = world.ok(&["vhd", "info", text(&file_of(&world, "Flat"))]);
    assert!(!flat.to_lowercase().contains("parent"), "{flat}");

    // InvokeV's removal orphaned what stood on an image.
    world.run(&["image", "rm", "Windows (ja)"]).fails_with(1, "IIS");
    world.run(&["image", "rm", "IIS", "--tree"]).fails_with(1, "web");
    world.ok(&["rm", "web"]);
    world.ok(&["image", "rm", "Windows (ja)", "--tree"]);
    assert_eq!(drawn(&world, &[]).len(), 5);
    assert!(!invokev.image("IIS", 3).exists() && invokev.image("Win2016-copy", 1).exists());
    assert!(!world.root().join("images").exists() && !world.root().join("containers").exists());
}

#[test]
fn an_invokev_image_leaves_as_a_zip_and_arrives_as_the_same_files() {
    let (world, other) = (
        World::new("a zip of InvokeV's", Vms::None),
        World::new("InvokeV's zip, arriving", Vms::None),
    );
    let (invokev, folder) = (InvokeV::make(&world), tempfile::tempdir().expect("a folder"));
    let zip = folder.path().join("iis");
    let names = ["Win2016_Hyper-V", "日本語", "IIS"].map(|name| format!("{name}:latest"));
    world.ok(&["image", "export", "IIS", text(&zip), "--format", "zip", "--tree"]);
    run(Command::new("unzip").arg("-tq").arg(&zip)).ok();
    let id = other.ok(&["image", "import", text(&zip)]);
    assert_eq!(world.inspect("IIS", "/Id"), id.as_str());
    let tree = drawn(&other, &[]).join("\n");
    assert!(names.iter().all(|name| tree.contains(name.as_str())), "{tree}");
    for (name, guid) in [("Win2016_Hyper-V", 0), ("日本語", 2), ("IIS", 3)] {
        let here = invokev.image(name, guid);
        let there = other.root().join("images").join(here.file_name().expect("a name"));
        assert!(fs::read(here).expect("read") == fs::read(there).expect("read"), "{name}");
    }
}

#[test]
fn a_moved_invokev_root_is_repaired_and_its_twins_are_told_apart() {
    let world = World::new("repairing InvokeV's", Vms::None);
    let invokev = InvokeV::make(&world);
    let other_key = "7DC27766-F623-4200-9D64-115E9BFD4A08";
    invokev.rename(("IIS", 3), &format!("Moved_{}", GUIDS[3]));
    invokev.rename(("Win2016-copy", 1), &format!("Other_{other_key}"));
    // Whose parent is not known nobody can start.
    assert_eq!(world.ok(&["ps", "-aq"]), "");
    let repaired = world.run(&["image", "repair"]);
    assert_eq!(repaired.code, 1);
    let linked = format!("Linked: Containers/web/web.vhdx to Moved_{}.vhdx\n", GUIDS[3]);
    assert_eq!(repaired.stdout, linked, "{repaired:#?}");
    let choice = "Broken: Containers/db/db.vhdx: several files may be its parent: ";
    assert!(repaired.stderr.starts_with(choice), "{repaired:#?}");
    assert_eq!(drawn(&world, &["web"]).last().expect("a line"), "        └── web + data");

    let say = |parent: &str| world.run(&["image", "repair", "db", "--parent", parent]);
    say("SQL").fails_with(1, "its data changed since");
    assert_eq!(world.ok(&["ps", "-aq"]).lines().count(), 1);
    let linked = say("Other").ok();
    assert_eq!(linked, format!("Linked: Containers/db/db.vhdx to Other_{other_key}.vhdx\n"));
    assert_eq!(drawn(&world, &["db"]), ["[Other:latest]", "└── db"]);
    assert_eq!(world.run(&["image", "repair"]).stderr, "every link is as it should be\n");
    assert_eq!(world.run(&["image", "verify", "--deep"]).code, 0);
}

/// The file of an image, as the list has it.
fn file_of(world: &World, image: &str) -> PathBuf {
    let images: serde_json::Value =
        serde_json::from_str(&world.ok(&["image", "ls", image, "--json"])).expect("JSON");
    PathBuf::from(images[0]["path"].as_str().expect("a path"))
}
