//! Files in and out of containers by the real docker clients, running and stopped.

use ireko_e2e::programs::{run, run_with_input};
use ireko_e2e::slots::Vms;
use ireko_e2e::{World, docker};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use tar::{Builder, EntryType, Header};

/// What an archive says of each of its entries.
fn entries(archive: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(File::open(archive).expect("open the archive"));
    let mut seen = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut more = Vec::new();
        for record in entry.pax_extensions().expect("records").into_iter().flatten() {
            let record = record.expect("a record");
            if !matches!(record.key(), Ok("path" | "linkpath")) {
                more.push(String::from_utf8_lossy(record.value_bytes()).into_owned());
            }
        }
        let header = entry.header();
        let link = entry.link_name_bytes().map(|name| String::from_utf8_lossy(&name).into_owned());
        let shown = format!(
            "{:?} {:o} {}:{} {} {link:?} {more:?}",
            header.entry_type(),
            header.mode().expect("a mode"),
            header.uid().expect("an owner"),
            header.gid().expect("a group"),
            header.mtime().expect("a time"),
        );
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("read");
        seen.insert(path, format!("{shown} {} {:x}", content.len(), hash(&content)));
    }
    seen
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |hash: u64, byte| hash.wrapping_mul(31) ^ u64::from(*byte))
}

/// Runs a command whose output is an archive.
#[track_caller]
fn archive_of(command: &mut Command, to: &Path) -> BTreeMap<String, String> {
    let status = command.stdout(File::create(to).expect("a file")).status().expect("run");
    assert!(status.success(), "{command:?}");
    entries(to)
}

/// All that an archive can hold.
fn rich_archive() -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut put = |kind, path: &str, link: &str, data: &[u8], pax: &[(&str, &[u8])]| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Symlink { 0o777 } else { 0o2751 });
        header.set_uid(12);
        header.set_gid(3_000_000);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        if kind == EntryType::Char {
            header.set_device_major(1).expect("a device");
            header.set_device_minor(3).expect("a device");
        }
        header.set_cksum();
        if !pax.is_empty() {
            builder.append_pax_extensions(pax.iter().copied()).expect("records");
        }
        builder.append(&header, data).expect("an entry");
    };
    let big = vec![7; 3 << 20];
    put(EntryType::Directory, "rich/", "", b"", &[]);
    put(EntryType::Regular, "rich/big", "", &big, &[("mtime", b"1000000000.123456789")]);
    put(EntryType::Regular, "rich/marked", "", b"x", &[("SCHILY.xattr.user.color", b"blue")]);
    put(EntryType::Link, "rich/twin", "rich/marked", b"", &[]);
    put(EntryType::Symlink, "rich/way", "../../outside", b"", &[]);
    put(EntryType::Char, "rich/null", "", b"", &[]);
    put(EntryType::Fifo, "rich/fifo", "", b"", &[]);
    builder.into_inner().expect("an archive")
}

/// A tree on this machine.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("sub")).expect("a folder");
    fs::write(at.join("file"), "hello\n").expect("write");
    fs::write(at.join("sub/tool"), vec![1; 70_000]).expect("write");
    fs::set_permissions(at.join("sub/tool"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    symlink("file", at.join("link")).expect("a link");
    if rustix::process::geteuid().is_root() {
        chown(at.join("file"), Some(12), Some(34)).expect("chown");
    }
    let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(981_173_106);
    File::open(at.join("file")).and_then(|file| file.set_modified(past)).expect("set a time");
}

fn listing(at: &Path) -> Vec<String> {
    let mut all: Vec<_> = ["", "file", "link", "sub", "sub/tool"]
        .iter()
        .map(|name| {
            let seen = fs::symlink_metadata(at.join(name)).expect("look");
            let content = fs::read(at.join(name)).unwrap_or_default();
            let time = if *name == "file" { seen.mtime() } else { 0 };
            format!("{name} {:o} {time} {:x}", seen.mode(), hash(&content))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn what_is_copied_in_and_out_stays_the_same_running_and_stopped() {
    let world = World::new("cp", Vms::One);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    tree(&folder.path().join("tree"));
    world.ok(&["run", "-d", "--name", "web", "--tmpfs", "/shown", "base", "sleep", "9999"]);
    let mut rich = BTreeMap::new();
    for (number, (client, version)) in docker::clients().into_iter().enumerate() {
        // One client is enough for what the client has no part in.
        let states = if number == 0 { &["running", "stopped"][..] } else { &["running"] };
        for state in states {
            let at = |name: &str| format!("web:/srv/{state}{name}");
            let cp = |args: &[&str]| {
                let ran = run(&mut docker::docker(&client, &world, &[&["cp"], args].concat()));
                assert_eq!((ran.code, &*ran.stdout), (0, ""), "{version} {state}: {ran:?}");
            };
            cp(&[&path("tree"), &at("")]);
            let back = path(&format!("{state}-{}", version.len()));
            cp(&["-a", &at(""), &back]);
            assert_eq!(listing(Path::new(&back)), listing(&folder.path().join("tree")), "{state}");
            // What goes on is copied into what is there.
            cp(&[&path("tree/."), &at("/sub")]);
            cp(&[&at("/sub/file"), &path("one")]);
            assert_eq!(fs::read_to_string(path("one")).expect("read"), "hello\n");
            cp(&["-L", &at("/link"), &path("followed")]);
            assert!(fs::symlink_metadata(path("followed")).expect("look").is_file());
            // All that an archive holds comes back out of it.
            let target = format!("web:/srv/{state}");
            let mut put = docker::docker(&client, &world, &["cp", "-", &target]);
            assert_eq!(run_with_input(&mut put, &rich_archive()).code, 0, "{state}");
            let mut get = docker::docker(&client, &world, &["cp", &at("/rich"), "-"]);
            let seen = archive_of(&mut get, &folder.path().join("rich.tar"));
            assert_eq!(seen.len(), 7, "{seen:#?}");
            let same = rich.entry("rich").or_insert_with(|| seen.clone());
            assert_eq!(*same, seen, "{version} {state}");
            if *state == "running" {
                cp(&[&path("tree/file"), "web:/shown/"]);
                assert_eq!(world.ok(&["exec", "web", "cat", "/shown/file"]), "hello");
            }
            if states.len() > 1 && *state == "running" {
                world.ok(&["kill", "web"]);
                world.ok(&["wait", "web"]);
            }
        }
        if states.len() > 1 {
            world.ok(&["start", "web"]);
        }
        let last = format!("/srv/{}/file", states[states.len() - 1]);
        let seen = world.ok(&["exec", "web", "stat", "-c", "%a %u:%g %Y", &last]);
        let owner = if rustix::process::geteuid().is_root() { "12:34" } else { "0:0" };
        assert_eq!(seen, format!("644 {owner} 981173106"));
        world.ok(&["exec", "web", "rm", "-rf", "/srv/stopped", "/srv/running"]);
    }
    let rich = &rich["rich"];
    assert!(rich["rich/twin"].contains("Link") && rich["rich/twin"].contains("rich/marked"));
    assert!(rich["rich/marked"].contains("blue"), "{rich:#?}");
    assert!(rich["rich/big"].contains("12:3000000 1000000000"), "{rich:#?}");
    assert!(rich["rich/big"].contains("1000000000.123456789"), "{rich:#?}");
}

#[test]
fn what_cannot_be_copied_is_refused_in_docker_s_words() {
    let world = World::new("cp refused", Vms::One);
    let client = docker::client();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    tree(&folder.path().join("tree"));
    world.ok(&["run", "-d", "--name", "web", "base", "sleep", "9999"]);
    world.ok(&["create", "--name", "closed", "--read-only", "base", "true"]);
    let refused = |args: &[&str], said: &str| {
        let ran = run(&mut docker::docker(&client, &world, &[&["cp"], args].concat()));
        assert_eq!(ran.stdout, "", "{ran:?}");
        ran.fails_with(1, said);
    };
    refused(&["web:/no/where", &path("x")], "Could not find the file /no/where in container web");
    refused(&["gone:/etc", &path("x")], "No such container: gone");
    refused(&[&path("tree/file"), "web:/no/where/x"], "Could not find the file /no/where");
    refused(&[&path("tree/file"), "web:/nowhere/"], "no such directory");
    refused(&[&path("tree"), "web:/etc/passwd"], "cannot copy directory");
    refused(&[&path("tree/file"), "closed:/etc/"], "container rootfs is marked read-only");
    refused(&[&path("tree/file"), "web:/etc/passwd/"], "no such directory");
    assert!(!folder.path().join("x").exists());

    let put = |path: &str, query: &str, body: &[u8]| {
        let mut socket = UnixStream::connect(world.root().join("ireko.sock")).expect("the socket");
        let head = format!(
            "PUT /v1.50/containers/web/archive?path={path}{query} HTTP/1.1\r\nHost: x\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body)).expect("ask");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let one = |kind, name: &str, link: &str, size: u64| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let check = |body: &[u8], status: &str, said: &str| {
        let answer = put("/tmp", "&noOverwriteDirNonDir=1", body);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains(said), "{answer}");
    };
    let end = [0; 1024];
    let ended = |header: Vec<u8>| [&header[..], &end].concat();
    check(&ended(one(EntryType::Regular, "../../up", "", 0)), "400", "leads outside");
    check(b"no archive at all, but long enough to be looked at", "400", "not a tar archive");
    check(&one(EntryType::Regular, "large", "", 1 << 40), "400", "");
    check(&ended(one(EntryType::Directory, "kind", "", 0)), "200", "");
    let over = "cannot overwrite directory \\\"/tmp/kind\\\" with non-directory \\\"/tmp\\\"";
    check(&ended(one(EntryType::Symlink, "kind", "/etc", 0)), "400", over);
    assert!(put("/etc/passwd", "", &end).contains("extraction point is not a directory"));
    assert!(put("/no", "", &end).starts_with("HTTP/1.1 404"));
    // A link that leads out of the folder leads to the container's own.
    check(&ended(one(EntryType::Symlink, "out", "/../../../run", 0)), "200", "");
    check(&ended(one(EntryType::Regular, "out/inside", "", 0)), "200", "");
    assert_eq!(world.ok(&["exec", "web", "ls", "/run/inside"]), "/run/inside");
}

#[test]
fn a_container_s_changes_and_its_whole_tree_come_out_and_become_an_image() {
    let world = World::new("diff, export, import", Vms::Two);
    let client = docker::client();
    let folder = tempfile::tempdir().expect("a folder");
    let script = "mkdir /srv/new; echo hi > /srv/new/file; echo more >> /etc/group; rm /etc/shells; \
                  chmod 700 /opt; ln /srv/new/file /srv/twin; touch /tmp/x; rm /tmp/x; touch /dev/shm/done; sleep 9999";
    world.ok(&["run", "-d", "--name", "web", "base", "sh", "-c", script]);
    world.ok(&["exec", "web", "sh", "-c", "while [ ! -e /dev/shm/done ]; do sleep 0.1; done"]);
    let changes = "C /etc\nC /etc/group\nD /etc/shells\nC /opt\nC /srv\nA /srv/new\n\
                   A /srv/new/file\nA /srv/twin\nC /tmp";
    assert_eq!(docker::ok(&client, &world, &["diff", "web"]), changes);
    let export = |file: &str| {
        let to = folder.path().join(file);
        archive_of(&mut docker::docker(&client, &world, &["export", "web"]), &to)
    };
    let running = export("running.tar");
    world.ok(&["kill", "web"]);
    world.ok(&["wait", "web"]);
    assert_eq!(docker::ok(&client, &world, &["diff", "web"]), changes);
    let stopped = export("stopped.tar");
    assert_eq!(stopped, running);
    assert!(running["srv/twin"].contains("srv/new/file"), "{:?}", running.get("srv/twin"));
    assert!(!running.contains_key("lost+found") && !running.contains_key("etc/shells"));
    assert!(running.contains_key("proc/") && !running.contains_key("proc/1/"));

    let tar = folder.path().join("stopped.tar");
    let tar = tar.to_str().expect("a path");
    let change = ["-c", r#"CMD ["cat", "/srv/twin"]"#, "-c", "ENV A=b", "-m", "flat"];
    let args = [&["import"][..], &change, &[tar, "flat:1"]].concat();
    let said = docker::ok(&client, &world, &args);
    assert!(said.lines().last().is_some_and(|line| line.starts_with("sha256:")), "{said}");
    assert_eq!(docker::ok(&client, &world, &["run", "--name", "again", "flat:1"]), "hi");
    let format = "{{.Comment}} {{.Config.Env}}";
    assert_eq!(docker::ok(&client, &world, &["inspect", "-f", format, "flat:1"]), "flat [A=b]");
    let to = folder.path().join("again.tar");
    let again = archive_of(&mut docker::docker(&client, &world, &["export", "again"]), &to);
    assert_eq!(again, stopped);
    assert_eq!(docker::ok(&client, &world, &["diff", "again"]), "");
    run(&mut docker::docker(&client, &world, &["diff", "gone"])).fails_with(1, "No such container");
}

#[test]
fn ireko_has_the_same_verbs() {
    let world = World::new("ireko cp, diff, export, stats", Vms::One);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    tree(&folder.path().join("tree"));
    world.ok(&["run", "-d", "--name", "web", "base", "sleep", "9999"]);
    assert_eq!(world.ok(&["cp", &path("tree"), "web:/srv/site"]), "");
    assert_eq!(world.ok(&["cp", &path("tree/."), "web:/srv/site/sub"]), "");
    assert_eq!(world.ok(&["exec", "web", "cat", "/srv/site/sub/file"]), "hello");
    world.ok(&["exec", "web", "rm", "-r", "/srv/site/sub/sub", "/srv/site/sub/file"]);
    world.ok(&["exec", "web", "rm", "/srv/site/sub/link"]);
    world.ok(&["cp", "-a", "web:/srv/site", &path("back")]);
    assert_eq!(listing(&folder.path().join("back")), listing(&folder.path().join("tree")));
    world.ok(&["cp", "-L", "web:/srv/site/link", &path("followed")]);
    assert_eq!(fs::read_to_string(path("followed")).expect("read"), "hello\n");
    let put = run_with_input(&mut world.ireko(&["cp", "-", "web:/srv"]), &rich_archive());
    assert_eq!(put.code, 0, "{put:?}");
    let seen = archive_of(
        &mut world.ireko(&["cp", "web:/srv/rich", "-"]),
        &folder.path().join("rich.tar"),
    );
    assert_eq!(seen.len(), 7, "{seen:#?}");
    world
        .run(&["cp", "web:/nowhere", &path("x")])
        .fails_with(1, "Could not find the file /nowhere");
    world.run(&["cp", &path("tree"), "web:/etc/passwd"]).fails_with(1, "cannot copy directory");
    world.run(&["cp", &path("tree"), &path("x")]).fails_with(125, "must specify at least one");

    world.ok(&["export", "-o", &path("all.tar"), "web"]);
    assert!(entries(&folder.path().join("all.tar")).contains_key("srv/site/link"));
    let stats = world.ok(&["stats", "--no-stream", "--json", "web"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert!(stats[0]["name"] == "web" && stats[0]["memory_bytes"].as_u64() > Some(0), "{stats}");
    assert!(world.ok(&["stats", "--no-stream"]).starts_with("CONTAINER ID   NAME"));
    world.ok(&["rm", "-f", "web"]);
    world.ok(&["create", "--name", "new", "base", "true"]);
    assert_eq!(world.ok(&["diff", "--json", "new"]), "[]");
}
