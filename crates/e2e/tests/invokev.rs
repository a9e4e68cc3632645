//! A root folder that InvokeV-Container wrote opens as it is: shown, committed, merged, renamed,
//! removed. Its systems are empty disks here; nothing is booted.

use ireko_e2e::World;
use ireko_e2e::slots::Vms;
use std::fs;
use std::path::{Path, PathBuf};

const GUIDS: [&str; 4] = [
    "2DC27766-F623-4200-9D64-115E9BFD4A08",
    "3DC27766-F623-4200-9D64-115E9BFD4A08",
    "4DC27766-F623-4200-9D64-115E9BFD4A08",
    "5DC27766-F623-4200-9D64-115E9BFD4A08",
];

/// ```text
///   Images/      Win2016_Hyper-V ◄── 日本語 ◄── IIS
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
        fs::copy(&win, &copy).expect("a copy");
        let child = |path: &Path, parent: &Path| {
            let windows = format!(r"D:\InvokeV\Images\{}", name(parent));
            let (path, parent) = (text(path), text(parent));
            let absolute = ["--absolute-path", &windows];
            world.ok(&[&["vhd", "create", path, "-f", "vhdx", "-p", parent], &absolute[..]].concat());
        };
        child(&made.image("日本語", 2), &win);
        child(&made.image("IIS", 3), &made.image("日本語", 2));
        child(&made.root.join("Containers/web/web.vhdx"), &made.image("IIS", 3));
        world.ok(&["vhd", "create", text(&made.root.join("Containers/web/data.vhdx")), "-s", "1g"]);
        let db = made.root.join("Containers/db/db.vhdx");
        child(&db, &copy);
        child(&made.root.join("Containers/db/db_0A1B2C3D-1111-2222-3333-444455556666.avhdx"), &db);
        made
    }

    fn image(&self, name: &str, guid: usize) -> PathBuf {
        self.root.join(format!("Images/{name}_{}.vhdx", GUIDS[guid]))
    }
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
            "└── [日本語:latest]",
            "    └── [IIS:latest]",
            "        └── web + data",
            "[Win2016-copy:latest]",
            "└── db",
        ]
    );
    let ps = world.ok(&["ps", "-a", "--wide"]);
    let db = ps.lines().find(|line| line.contains(".avhdx")).expect("the checkpoint is the disk");
    assert!(db.ends_with("Containers/db/db.vhdx"), "{db}");

    // One name in any spelling, for docker's clients too.
    world.ok(&["create", "--name", "second", "win2016_hyper-V"]);
    assert_eq!(world.inspect("xn--wgv71a119e", "/RepoTags/0"), "xn--wgv71a119e:latest");
    world.run(&["tag", "IIS", "iis"]).fails_with(1, "are one name to docker");
    world.ok(&["image", "rename", "日本語", "Windows (ja)"]);
    // Its disk holds no system: the firmware says so, and goes on looking for one.
    world.ok(&["start", "web"]);
    world.ok(&["wait", "--for", "log=(?i)no bootable device", "web"]);
    world.ok(&["kill", "web"]);
    assert_eq!(world.ok(&["wait", "web"]), "137");

    // The original wrote a container's second disk over the first one's image.
    let left_out = world.run(&["commit", "web", "App"]);
    assert!(left_out.stderr.contains("not in the image: data"), "{}", left_out.stderr);
    world.ok(&["commit", "--all-disks", "web", "Both"]);
    assert_eq!(world.inspect("both", "/Disks/0/Size"), 1 << 30);
    world.ok(&["rmi", "Both"]);
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

/// The file of an image, as the list has it.
fn file_of(world: &World, image: &str) -> PathBuf {
    let images: serde_json::Value =
        serde_json::from_str(&world.ok(&["image", "ls", image, "--json"])).expect("JSON");
    PathBuf::from(images[0]["path"].as_str().expect("a path"))
}
