//! Images that other programs made and saved, with umoci and skopeo as witnesses.

use ireko_e2e::programs::run;
use ireko_e2e::slots::Vms;
use ireko_e2e::{World, docker};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Names each file with what a layer says of it; folders without what the file system makes of them. What is mounted over
/// a container's tree, and ext4's own folder, are left out.
const LISTING: &str = r#"cd /; find . -xdev | grep -vE '^\.$|^\./(proc|sys|dev|lost\+found)(/|$)|^\./etc/(hosts|hostname|resolv.conf)$' |
    sort | while read -r name; do
        if [ -d "$name" ] && [ ! -L "$name" ]; then
            echo "$name $(stat -c '%f %u:%g %Y' "$name")"
        else
            echo "$name $(stat -c '%f %u:%g %Y %s %h %t:%T' "$name") $(readlink "$name")"
        fi
    done; cat etc/motd opt/app/new bin/twin | md5sum"#;

/// An image of three layers, made by umoci, in an OCI layout.
struct Made {
    folder: TempDir,
}

impl Made {
    /// `None` where this machine cannot make one, with the reason told.
    fn new() -> Option<Made> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: umoci unpacks owners and devices as root only");
            return None;
        }
        for program in ["umoci", "skopeo", "busybox"] {
            if Command::new(program).arg("--help").output().is_err() {
                eprintln!("skipped: {program} is missing (scripts/install-deps.sh test)");
                return None;
            }
        }
        let made = Made { folder: tempfile::tempdir().expect("a folder") };
        made.umoci(&["init", "--layout", &made.path("layout")]);
        made.umoci(&["new", "--image", &made.image()]);
        made.umoci(&["unpack", "--image", &made.image(), &made.path("bundle")]);
        let root = PathBuf::from(made.path("bundle/rootfs"));
        first_layer(&root);
        made.repack();
        second_layer(&root);
        made.repack();
        third_layer(&root);
        made.repack();
        let image = made.image();
        made.umoci(&[
            "config",
            "--image",
            &image,
            "--config.cmd",
            "cat",
            "--config.cmd",
            "/etc/motd",
        ]);
        Some(made)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a path").to_owned()
    }

    fn image(&self) -> String {
        format!("{}:web", self.path("layout"))
    }

    fn repack(&self) {
        let (image, bundle) = (self.image(), self.path("bundle"));
        self.umoci(&["repack", "--refresh-bundle", "--image", &image, &bundle]);
    }

    #[track_caller]
    fn umoci(&self, args: &[&str]) {
        run(Command::new("umoci").args(args)).ok();
    }

    /// The listing of the whole tree as umoci unpacks it.
    fn listing(&self) -> String {
        self.umoci(&["unpack", "--image", &self.image(), &self.path("witness")]);
        let mut chroot = Command::new("chroot");
        chroot.arg(self.path("witness/rootfs")).args(["/bin/busybox", "sh", "-c", LISTING]);
        run(&mut chroot).ok().trim_end().to_owned()
    }

    /// The image as `docker save` would write it.
    fn docker_archive(&self, name: &str) -> String {
        let to = self.path("saved.tar");
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", &format!("oci:{}", self.image())]);
        run(skopeo.arg(format!("docker-archive:{to}:{name}"))).ok();
        to
    }
}

fn put(root: &Path, name: &str, content: &str) -> PathBuf {
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
    fs::write(&path, content).expect("write");
    path
}

fn first_layer(root: &Path) {
    for folder in ["bin", "etc", "dev", "proc", "sys", "tmp", "root"] {
        fs::create_dir_all(root.join(folder)).expect("make a folder");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("copy busybox");
    run(Command::new("chroot").arg(root).args(["/bin/busybox", "--install", "-s", "/bin"])).ok();
    // Where a container's own are shown.
    for name in ["hosts", "hostname", "resolv.conf"] {
        put(root, &format!("etc/{name}"), "");
    }
    put(root, "etc/motd", "first\n");
    put(root, "etc/gone", "x");
    put(root, "opt/app/old", "x");
    put(root, "opt/app/sub/deep", "x");
    put(root, "opt/kind", "a file\n");
    fs::create_dir_all(root.join("srv/folder/inner")).expect("make a folder");
    put(root, "srv/folder/inner/file", "x");
    symlink("folder", root.join("srv/link")).expect("link");
}

fn second_layer(root: &Path) {
    fs::remove_file(root.join("etc/gone")).expect("remove");
    put(root, "etc/motd", "second\n");
    // Another folder of the same name: the one below must not show.
    fs::remove_dir_all(root.join("opt/app")).expect("remove");
    put(root, "opt/app/new", "new\n");
    fs::remove_file(root.join("opt/kind")).expect("remove");
    put(root, "opt/kind/now/a/folder", "x");
    let program = put(root, "bin/su-like", "#!/bin/sh\nid\n");
    chown(&program, Some(12), Some(34)).expect("change the owner");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).expect("set the mode");
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))
        .expect("set the mode");
    fs::hard_link(&program, root.join("bin/twin")).expect("link");
    put(root, "日本/ファイル", "unicode\n");
    let long = "n".repeat(200);
    put(root, &format!("{long}/{long}"), "long\n");
    let mut mknod = Command::new("mknod");
    run(mknod.arg(root.join("srv/null")).args(["c", "1", "3"])).ok();
    run(Command::new("mkfifo").arg(root.join("srv/fifo"))).ok();
}

fn third_layer(root: &Path) {
    put(root, "etc/motd", "third\n");
    fs::remove_dir_all(root.join("srv/folder")).expect("remove");
    fs::remove_file(root.join("srv/link")).expect("remove");
    put(root, "srv/link/is/a/folder/now", "x");
    fs::remove_file(root.join("srv/fifo")).expect("remove");
}

/// The disk files of a world's store.
fn disks(world: &World) -> usize {
    let names = fs::read_dir(world.root().join("images")).expect("read images/");
    names
        .filter(|entry| entry.as_ref().unwrap().path().extension() == Some("vhdx".as_ref()))
        .count()
}

#[test]
fn an_image_of_several_layers_is_what_umoci_unpacks() {
    let Some(made) = Made::new() else { return };
    let world = World::new("loading images", Vms::One);
    world.ok(&["image", "import", &made.path("layout"), "web"]);
    assert_eq!(world.ok(&["run", "--rm", "web"]), "third");
    let seen = world.ok(&["run", "--rm", "web", "sh", "-c", LISTING]);
    let expected = made.listing();
    let (seen, expected) = (lines(&seen), lines(&expected));
    for (seen, expected) in seen.iter().zip(&expected) {
        assert_eq!(seen, expected);
    }
    assert_eq!(seen.len(), expected.len());
    assert!(seen.iter().any(|line| line.starts_with("./srv/link/is/a/folder/now ")));
    // The common root, three layers, and the image's own file.
    assert_eq!(disks(&world), 5);

    let archive = made.docker_archive("example.org/web:1");
    let loaded = world.ok(&["load", "-i", &archive]);
    assert_eq!(loaded, "Loaded image: example.org/web:1");
    assert!(disks(&world) <= 6, "the layers are shared");
    for (client, version) in docker::clients() {
        let loaded = docker::ok(&client, &world, &["load", "-q", "-i", &archive]);
        assert_eq!(loaded, "Loaded image: example.org/web:1", "{version}");
    }
    assert_eq!(world.ok(&["run", "--rm", "example.org/web:1"]), "third");

    let taken = world.run(&["image", "import", &made.path("layout"), "web"]);
    taken.fails_with(1, "in use");
    // Of one bit in the last layer.
    let mut bytes = fs::read(&archive).expect("read the archive");
    let at =
        find(&bytes, b"./srv/link/is/a/folder/now").or(find(&bytes, b"srv/link/is/a/folder/now"));
    bytes[at.expect("the last layer, uncompressed")] ^= 1;
    fs::write(&archive, bytes).expect("write the archive");
    world.ok(&["rmi", "-f", "example.org/web:1", "web"]);
    world.run(&["load", "-i", &archive]).fails_with(1, "is damaged");
    assert_eq!(disks(&world), 0, "nothing is left of an image that failed");
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
