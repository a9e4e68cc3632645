//! The verbs on the tree as their user meets them: merging and removing images.

use ireko_e2e::World;
use ireko_e2e::slots::Vms;
use std::time::{Duration, Instant};

/// For what is done in the background, at the lowest priority.
const PATIENCE: Duration = Duration::from_secs(60);

/// base ◄─ web ◄─ api ◄─ top, each but the first committed from a container: `c1`, `c2`, `c3`.
fn world(name: &str) -> World {
    let world = World::new(name, Vms::One);
    for (container, image, new) in
        [("c1", "base", "web"), ("c2", "web", "api"), ("c3", "api", "top")]
    {
        world.ok(&["create", "--name", container, image, "cat", "/etc/hostname"]);
        world.ok(&["commit", container, new]);
    }
    world
}

#[test]
fn images_are_merged_and_what_stands_on_them_runs_on() {
    let world = world("merging");
    let fails = |args: &[&str], said| world.run(args).fails_with(1, said);
    let id = world.ok(&["image", "merge", "api", "flat"]);
    assert_eq!(world.inspect("flat", "/Id"), id.as_str());
    fails(&["image", "merge", "api", "flat"], "the name flat:latest is in use");
    fails(&["image", "merge", "nosuch", "x"], "No such image: nosuch:latest");
    fails(&["image", "merge", "base", "x"], "is made of one file over the common root");
    fails(&["image", "merge", "api", "x", "--delete"], "containers were made from it: c3");
    world.run(&["image", "merge", "api", "x", "--all", "--depth", "3"]).fails_with(125, "--depth");

    world.ok(&["rm", "c3"]);
    let merged = world.run(&["image", "merge", "api", "new", "--delete"]);
    assert!(merged.stderr.contains("Kept: web:latest: container c2 was made from it"));
    fails(&["inspect", "--type", "image", "api"], "No such image: api");
    assert_eq!(world.inspect("top", "/Parent"), world.inspect("new", "/Id"));
    world.ok(&["image", "merge", "new", "alone", "--all"]);
    for image in ["flat", "top", "alone"] {
        assert_eq!(world.ok(&["run", "--rm", image, "echo", image]), image);
    }
}

#[test]
fn what_images_take_is_told_and_links_are_verified_and_repaired() {
    let world = world("df, gc, verify, repair");
    let df = || -> serde_json::Value {
        serde_json::from_str(&world.ok(&["df", "--json"])).expect("df prints JSON")
    };
    let before = df();
    assert_eq!(before["images"].as_array().map(Vec::len), Some(4));
    assert_eq!(before["garbage_bytes"], 0);
    let layers = before["layer_bytes"].as_u64().expect("a number");
    let top = &before["images"][0];
    assert_eq!(top["names"][0], "top:latest");
    assert!(top["own_bytes"].as_u64() > Some(0) && top["shared_bytes"].as_u64() < Some(layers));

    // top becomes a layer that c3 alone needs.
    world.ok(&["rmi", "top"]);
    let after = df();
    assert_eq!(after["layer_bytes"], layers);
    assert_eq!(after["containers"][0]["layer_bytes"], top["own_bytes"]);
    assert_eq!(world.ok(&["gc"]), "Total reclaimed space: 0B");
    world.ok(&["rm", "c3"]);
    assert!(df()["layer_bytes"].as_u64() < Some(layers));

    assert_eq!(world.run(&["image", "verify", "--deep"]).stderr, "images: 3, files: 4: sound\n");
    let web = world.image_file("web");
    let name = web.file_name().and_then(|name| name.to_str()).expect("a name");
    let moved = web.with_file_name(name.replace("web_", "日本語_"));
    std::fs::rename(&web, &moved).expect("rename a file");
    let found = world.run(&["image", "verify"]);
    assert_eq!(found.code, 1);
    assert!(found.stdout.contains(&format!("error: {name}: ")), "{found:#?}");
    let repaired = world.ok(&["image", "repair"]);
    assert!(repaired.lines().all(|line| line.contains(" to 日本語_")), "{repaired}");
    assert_eq!(repaired.lines().count(), 2, "api and c1");
    assert_eq!(world.ok(&["image", "verify"]), "");
    world.run(&["image", "repair", "api", "--parent", "base"]).fails_with(1, "--force links them");
    world.run(&["image", "repair", "web", "--parent", "api"]).fails_with(1, "cannot be its parent");
    assert_eq!(world.ok(&["start", "-a", "c1"]).lines().count(), 1);
}

#[test]
fn a_tree_of_images_is_removed_whole_or_not_at_all() {
    let world = world("removing trees");
    world.ok(&["rm", "c2", "c3"]);
    let shown = world.ok(&["image", "rm", "web", "--tree", "--dry-run"]);
    let column = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let names: Vec<_> = shown.lines().skip(1).map(column).collect();
    assert_eq!(names, ["top:latest", "api:latest", "web:latest"]);
    let before = world.ok(&["images", "-q"]);
    for args in
        [&["image", "rm", "base", "--tree"][..], &["image", "rm", "base", "--tree", "--dry-run"]]
    {
        world.run(args).fails_with(1, "c1");
    }
    world
        .run(&["image", "rm", "web"])
        .fails_with(1, "image has dependent child images: api:latest");
    assert_eq!(world.ok(&["images", "-q"]), before);

    // c1, from which web was committed, stands on web's layer and keeps it.
    world.ok(&["image", "rm", "web", "--tree"]);
    let left = world.ok(&["images"]);
    assert_eq!(left.lines().skip(1).map(column).collect::<Vec<_>>(), ["base:latest"]);
    assert!(!world.ok(&["start", "-a", "c1"]).is_empty());
}

#[test]
fn layers_that_are_no_images_any_more_are_folded_under_a_running_container() {
    let world = World::new("folding", Vms::Two);
    let files = || std::fs::read_dir(world.root().join("images")).expect("a folder").count() / 2;
    world.ok(&["run", "-d", "--name", "busy", "base", "sleep", "1000"]);
    let commit_and_remove = |number: usize| {
        world.ok(&["exec", "busy", "sh", "-c", &format!("echo {number} >> /numbers; sync")]);
        world.ok(&["commit", "busy", "passing"]);
        world.ok(&["rmi", "passing"]);
    };
    (1..=3).for_each(commit_and_remove);
    let before = files();
    let shown = world.ok(&["gc", "--fold", "--dry-run"]);
    assert!(shown.starts_with("Would fold: 3 layers, "), "{shown}");
    assert_eq!(files(), before);
    let told = world.ok(&["gc", "--fold", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).expect("gc prints JSON");
    assert_eq!(told["folded"]["folds"][0]["layers"].as_array().map(Vec::len), Some(3), "{told}");
    assert_eq!(files(), before - 2);
    assert_eq!(world.ok(&["exec", "busy", "cat", "/numbers"]), "1\n2\n3");

    // By itself, and the container goes on all the while.
    (4..=10).for_each(commit_and_remove);
    let deadline = Instant::now() + PATIENCE;
    while files() >= before + 3 {
        assert!(Instant::now() < deadline, "a long row of layers is never folded");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(world.run(&["image", "verify", "--deep"]).code, 0);
    world.ok(&["commit", "busy", "last"]);
    world.ok(&["stop", "-t", "0", "busy"]);
    world.ok(&["start", "busy"]);
    let numbers = world.ok(&["exec", "busy", "cat", "/numbers"]);
    assert_eq!(numbers.lines().count(), 10);
    assert_eq!(world.ok(&["run", "--rm", "last", "cat", "/numbers"]), numbers);
    world.ok(&["rm", "-f", "busy"]);
}
