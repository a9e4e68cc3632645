//! Containers with several disks: what guests see of them, and what a commit takes along.

use ireko_e2e::World;
use ireko_e2e::slots::Vms;
use std::fs;

/// Reads a disk's first word in the guest.
const READ: &str = "head -c 5 /dev/disk/by-id/virtio-data";

#[test]
fn a_commit_of_all_disks_of_a_running_container_has_the_data_of_each() {
    let world = World::new("all disks", Vms::Two);
    let given = world.root().join("given.img");
    let mut bytes = vec![0; 8 << 20];
    bytes[..5].copy_from_slice(b"given");
    fs::write(&given, bytes).expect("a disk");
    let given = given.to_str().expect("a readable path");
    world.ok(&[
        "run", "-d", "--name", "db", "--disk", "data=64m", "--disk", given, "base", "sleep", "1000",
    ]);
    let sizes =
        "cat /sys/block/vdb/size /sys/block/vdc/size; head -c 5 /dev/vdc; ls /dev/disk/by-id";
    let seen = world.ok(&["exec", "db", "sh", "-c", sizes]);
    assert_eq!(seen, "131072\n16384\ngivenvirtio-data\nvirtio-disk1");
    // A file system on it, mounted by the container itself, is held still with the others.
    let fill = "mke2fs -q /dev/vdb; mkdir /data; mount /dev/vdb /data && echo first > /data/word; \
                echo own > /own";
    world.ok(&["exec", "db", "sh", "-c", fill]);
    let disks = world.inspect("db", "/Disks");
    let names: Vec<_> = disks.as_array().unwrap().iter().map(|it| it["Name"].clone()).collect();
    assert_eq!(names, ["data", "disk1"]);

    let own = world.run(&["commit", "db", "own"]);
    assert!(own.stderr.contains("not in the image: data, disk1"), "{}", own.stderr);
    let all = world.run(&["commit", "--all-disks", "db", "all"]);
    assert_eq!((all.code, all.stderr.as_str()), (0, ""), "all was held still");
    world.ok(&["exec", "db", "sh", "-c", "echo later > /data/word; echo later > /own; sync"]);
    let tree = world.ok(&["tree"]);
    assert!(tree.contains("[all:latest] + data, disk1") && tree.contains("db + data"), "{tree}");
    assert!(world.ok(&["ps", "--wide"]).contains("data, disk1"));

    let look = "mkdir -p /data; mount /dev/vdb /data && cat /data/word /own; head -c 5 /dev/vdc";
    assert_eq!(world.ok(&["run", "--rm", "all", "sh", "-c", look]), "first\nown\ngiven");
    let none = world.ok(&["run", "--rm", "own", "sh", "-c", "ls /dev/vdb 2>&1; cat /own; true"]);
    assert!(none.contains("No such file") && none.ends_with("own"), "{none}");
    let twice = world.run(&["create", "--disk", "data=1g", "all"]);
    assert!(twice.stderr.contains("the image has one"), "{}", twice.stderr);

    world.ok(&["rm", "-f", "db"]);
    world.ok(&["image", "verify", "--deep"]);
    world.ok(&["rmi", "all", "own"]);
    let left = fs::read_dir(world.root().join("images")).expect("images/").flatten();
    let left: Vec<_> = left.map(|file| file.file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.contains("_data_")), "{left:?}");
}

#[test]
fn data_disks_are_a_stopped_containers_own_until_they_are_committed() {
    let world = World::new("data disks", Vms::One);
    let write = "echo hello > /dev/vdb";
    world.ok(&["run", "--name", "one", "--disk", "data=32m", "base", "sh", "-c", write]);
    let before = world.container_dir("one").join("base_data.vhdx");
    assert!(before.exists());
    assert_eq!(world.ok(&["start", "-a", "one"]), "");
    world.ok(&["commit", "--all-disks", "one", "all"]);
    world.ok(&["rm", "one"]);
    assert!(!before.exists());
    assert_eq!(world.ok(&["run", "--name", "two", "all", "sh", "-c", READ]), "hello");

    // What leaves with the image comes back with it; one disk alone says what it is not.
    let zip = world.root().parent().expect("a folder").join(format!("{}.zip", std::process::id()));
    let path = zip.to_str().expect("a readable path");
    world.ok(&["rm", "two"]);
    let folder = tempfile::tempdir().expect("a folder");
    let raw = folder.path().join("own.raw");
    let flat = world.run(&["image", "export", "all", raw.to_str().unwrap()]);
    assert!(flat.code == 0 && flat.stderr.contains("left out: data"), "{}", flat.stderr);
    let data = folder.path().join("data.raw");
    world.ok(&["image", "export", "--disk", "data", "all", data.to_str().unwrap()]);
    assert_eq!(&fs::read(&data).unwrap()[..5], b"hello");
    world.ok(&["image", "export", "--tree", "all", path]);
    world.ok(&["rmi", "all"]);
    world.ok(&["image", "import", path]);
    fs::remove_file(&zip).expect("remove the zip");
    assert_eq!(world.ok(&["run", "--rm", "all", "sh", "-c", READ]), "hello");
}

#[test]
fn a_disk_that_cannot_be_had_makes_no_container() {
    let world = World::new("bad disks", Vms::One);
    let refused = |disk: &str, says: &str| {
        let ran = world.run(&["create", "--disk", disk, "base"]);
        assert!(ran.code != 0 && ran.stderr.contains(says), "{disk}: {}", ran.stderr);
    };
    world.ok(&["create", "--name", "one", "base"]);
    refused("root=1g", "cannot be called");
    refused("65t", "64 TiB");
    refused("/nowhere.vhdx", "No such file");
    refused("/etc/passwd", "nothing that is known");
    refused("a=1g,b=1g", "comma");
    let ran = world.run(&["create", "--disk", "a=1g", "--disk", "A=1g", "base"]);
    assert!(ran.stderr.contains("named twice"), "{}", ran.stderr);
    assert_eq!(world.ok(&["ps", "-aq"]).lines().count(), 1);
    let folders = fs::read_dir(world.root().join("containers")).expect("containers/").count();
    assert_eq!(folders, 1);
}
