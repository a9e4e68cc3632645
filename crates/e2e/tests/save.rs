//! Images that leave as docker's archives, and come back.

use ireko_e2e::programs::run;
use ireko_e2e::slots::Vms;
use ireko_e2e::{World, docker};
use std::fs;
use std::process::Command;

/// A file of an archive, as JSON.
#[track_caller]
fn json(archive: &str, name: &str) -> serde_json::Value {
    let text = run(Command::new("tar").args(["xOf", archive, name])).ok();
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_saved_image_is_loaded_with_the_same_layers_however_often_it_goes() {
    let world = World::new("save", Vms::Two);
    let client = docker::client();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let ok = |args: &[&str]| docker::ok(&client, &world, args);
    let script = "echo one > /srv/one; rm /etc/shells; mkdir -p /opt/a/b; ln /srv/one /opt/twin; \
                  rm -r /home; echo file > /home; chown 5:6 /opt/a; touch -d 2001-02-03 /opt/a";
    world.ok(&["run", "--name", "made", "base", "sh", "-c", script]);
    let changes = [
        r#"CMD ["sh", "-c", "cat /srv/one $NAME"]"#,
        "ENV NAME=/home",
        "EXPOSE 80 53/udp",
        "LABEL a=b",
        "USER 0:0",
        "VOLUME /data",
        "WORKDIR /srv",
        "WORKDIR ../opt",
        "STOPSIGNAL SIGINT",
        "ONBUILD RUN true",
        "HEALTHCHECK --interval=5s --retries=2 CMD true",
    ];
    let mut commit = vec!["commit", "-a", "me", "-m", "why", "--pause=false"];
    changes.iter().for_each(|change| commit.extend(["-c", change]));
    commit.extend(["made", "me/web:1"]);
    ok(&commit);
    let wrong = ["commit", "-c", "RUN true", "made"];
    run(&mut docker::docker(&client, &world, &wrong)).fails_with(1, "not a valid change command");
    let inspect = |format: &str| ok(&["inspect", "-f", format, "me/web:1"]);
    assert_eq!(inspect("{{.Author}} {{.Comment}} {{.Config.WorkingDir}}"), "me why /opt");
    assert_eq!(inspect("{{json .Config.Healthcheck.Test}}"), r#"["CMD-SHELL","true"]"#);
    assert_eq!(inspect("{{json .Config.ExposedPorts}}"), r#"{"53/udp":{},"80/tcp":{}}"#);
    assert_eq!(
        inspect("{{json .Config.Volumes}} {{.Config.StopSignal}}"),
        r#"{"/data":{}} SIGINT"#
    );
    let before = inspect("{{.Id}}");
    let look =
        "cat /srv/one /home; ls /etc/shells; stat -c '%n %u:%g %h %Y' /opt/a /opt/twin /srv/one";
    let look = |name: &str| {
        let ran =
            run(&mut docker::docker(&client, &world, &["run", "--rm", name, "sh", "-c", look]));
        format!("{} {} {}", ran.code, ran.stdout, ran.stderr)
    };
    let seen = look("me/web:1");
    assert!(seen.starts_with("0 one\nfile\n") && seen.contains("No such file"), "{seen}");

    let (first, second) = (path("first.tar"), path("second.tar"));
    ok(&["save", "-o", &first, "me/web:1", "base"]);
    let listed = json(&first, "manifest.json");
    assert_eq!(listed[0]["RepoTags"][0], "me/web:1", "{listed}");
    assert_eq!(listed[0]["Layers"][0], listed[1]["Layers"][0], "a layer is there once");
    let config = listed[0]["Config"].as_str().expect("a path");
    assert_eq!(json(&first, config)["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
    let index = json(&first, "index.json");
    assert_eq!(
        index["manifests"][0]["annotations"]["io.containerd.image.name"],
        "docker.io/me/web:1"
    );
    // By another program too.
    if Command::new("skopeo").arg("--version").output().is_ok() {
        let archive = format!("docker-archive:{first}:me/web:1");
        let args =
            ["--insecure-policy", "copy", "--quiet", &archive, &format!("oci:{}:x", path("oci"))];
        run(Command::new("skopeo").args(args)).ok();
    } else {
        eprintln!("skipped: skopeo is missing (scripts/install-deps.sh test)");
    }

    ok(&["rm", "made"]);
    ok(&["rmi", "me/web:1"]);
    assert!(ok(&["load", "-i", &first]).contains("Loaded image: me/web:1"));
    let loaded = inspect("{{.Id}}");
    assert_eq!(config, format!("blobs/sha256/{}", loaded.trim_start_matches("sha256:")));
    assert_ne!(loaded, before, "what was committed here had no digests of layers");
    assert_eq!(look("me/web:1"), seen);
    assert_eq!(ok(&["run", "--rm", "me/web:1"]), "one\nfile");

    ok(&["save", "-o", &second, "me/web"]);
    assert_eq!(json(&second, "manifest.json")[0], listed[0], "made again bit for bit");
    ok(&["rmi", "me/web:1"]);
    assert!(ok(&["load", "-i", &second]).contains("Loaded image: me/web:1"));
    assert_eq!(inspect("{{.Id}}"), loaded);
    // Without a skeleton a layer is made anew.
    fs::remove_dir_all(world.root().join("skeletons")).expect("remove the skeletons");
    let third = path("third.tar");
    world.ok(&["save", "-o", &third, &loaded]);
    assert!(json(&third, "manifest.json")[0]["RepoTags"].is_null(), "an id is no name");
    ok(&["rmi", "-f", "me/web:1"]);
    assert!(ok(&["load", "-i", &third]).contains("Loaded image ID: sha256:"));
    let failed = run(&mut docker::docker(&client, &world, &["save", "-o", &path("x"), "gone"]));
    failed.fails_with(1, "No such image: gone:latest");
}
