//! Images of three sizes: as small as they get, with much written in them, and a huge disk.

use ireko_e2e::{World, run};
use serde_json::Value;
use std::fs;
use std::process::Command;

/// An image of `gib` GiB that a container wrote.
pub fn written(world: &World, gib: usize) -> &'static str {
    let script = format!("dd if=/dev/urandom of=/fill bs=1M count={} && sync", gib << 10);
    world.ok(&["run", "--name", "writer", "base", "sh", "-c", &script]);
    world.ok(&["commit", "writer", "written"]);
    world.ok(&["rm", "writer"]);
    "written"
}

/// `base` on a disk of 1 TiB.
pub fn huge(world: &World) -> &'static str {
    const NEW: &str = "6d5f1e7a-3c1b-4c53-9a51-0f6f0c6a7e11";
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    world.ok(&["image", "export", "base", &path("base.zip")]);
    run(Command::new("unzip").args(["-q", &path("base.zip"), "-d", &path("")])).ok();
    let of_kind = |kind: &str| {
        let all = fs::read_dir(folder.path()).expect("the folder");
        let mut all = all.filter_map(|entry| Some(entry.ok()?.path()));
        all.find(|path| path.extension().is_some_and(|found| found == kind)).expect("a file of it")
    };
    let (json, disk) = (of_kind("json"), of_kind("vhdx"));
    let stem = format!("huge_{NEW}");
    world.ok(&["image", "export", "base", &path(&format!("{stem}.vhdx"))]);
    world.ok(&["vhd", "resize", &path(&format!("{stem}.vhdx")), "1t"]);
    let text = fs::read_to_string(&json).expect("what is said of it");
    let mut said: Value = serde_json::from_str(&text).expect("JSON");
    let config = said["config"].as_str().expect("its configuration");
    let mut config: Value = serde_json::from_str(config).expect("JSON");
    // What is said of it makes its id.
    config["comment"] = "base, on a disk of 1 TiB".into();
    said["config"] = config.to_string().into();
    said["guid"] = NEW.into();
    said["name"] = "huge".into();
    said["names"] = serde_json::json!(["huge:latest"]);
    fs::write(path(&format!("{stem}.json")), said.to_string()).expect("write");
    fs::remove_file(json).and_then(|()| fs::remove_file(disk)).expect("remove");
    let zip = format!("cd {} && zip -q0 huge.zip {stem}.*", folder.path().display());
    run(Command::new("sh").args(["-c", &zip])).ok();
    world.ok(&["image", "import", &path("huge.zip")]);
    "huge"
}
