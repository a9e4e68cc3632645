//! Programs that try to leave. Each runs in a process of its own: this test binary, told by the
//! environment to become [`child`].

use super::*;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

const PLAN: &str = "IREKO_TEST_CONFINEMENT";

/// Becomes the program that the environment tells; by itself it tests nothing.
#[test]
fn child() {
    if let Ok(plan) = std::env::var(PLAN) {
        main(&plan);
    }
}

/// Runs a shell script that may read `given` and write in `folder`.
fn shell(folder: &Path, given: &Path, script: &str) -> Output {
    let plan = Confinement {
        program: fs::canonicalize("/bin/bash").unwrap(),
        arguments: vec!["-c".into(), script.into()],
        read: vec![given.to_owned()],
        write: folder.to_owned(),
        memory: 1 << 30,
        cpu_seconds: 60,
        file_size: 1 << 20,
    };
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::child", "--nocapture"])
        .env(PLAN, serde_json::to_string(&plan).unwrap())
        .output()
        .unwrap()
}

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        fs::write(folder.path().join("given"), "given").unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        Scene { folder }
    }

    fn run(&self, script: &str) -> Output {
        let folder = self.folder.path();
        let script = script.replace("@", folder.to_str().unwrap());
        shell(&folder.join("out"), &folder.join("given"), &script)
    }

    /// `false` where the kernel has no Landlock: then there is nothing to test.
    fn has_walls(&self) -> bool {
        let told = self.run("true");
        let walls = !String::from_utf8_lossy(&told.stderr).contains("no Landlock");
        if !walls {
            eprintln!("skipped: this kernel has no Landlock");
        }
        walls
    }

    #[track_caller]
    fn allowed(&self, script: &str) {
        let run = self.run(script);
        assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
    }

    #[track_caller]
    fn denied(&self, script: &str) {
        let run = self.run(script);
        assert!(!run.status.success(), "{script} was allowed");
        let told = String::from_utf8_lossy(&run.stderr);
        assert!(told.contains("ermission denied"), "{script}: {told}");
    }
}

#[test]
fn a_program_reads_what_it_was_given_and_nothing_else() {
    let scene = Scene::new();
    if !scene.has_walls() {
        return;
    }
    scene.allowed("read word < @/given; [ $word = given ]");
    scene.denied("read word < @/secret");
    scene.denied("read word < /etc/passwd");
    scene.denied("read word < /proc/self/environ");
    scene.denied("exec 3< /dev/mem || exec 3< /dev/zero");
    scene.denied("exec /bin/ls");
}

#[test]
fn a_program_writes_in_its_folder_and_nowhere_else() {
    let scene = Scene::new();
    if !scene.has_walls() {
        return;
    }
    scene.allowed("echo made > @/out/file; read word < @/out/file; [ $word = made ]");
    assert_eq!(fs::read(scene.folder.path().join("out/file")).unwrap(), b"made\n");
    scene.denied("echo x > @/other");
    scene.denied("echo x >> @/given");
    scene.denied("echo x > @/out/../other");
    assert_eq!(fs::read(scene.folder.path().join("given")).unwrap(), b"given");
    // A link that was there before leads to what may not be read all the same.
    std::os::unix::fs::symlink("../secret", scene.folder.path().join("out/link")).unwrap();
    scene.denied("read word < @/out/link");
}

#[test]
fn a_program_reaches_no_tcp_port() {
    let scene = Scene::new();
    if !scene.has_walls() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    scene.denied(&format!("exec 3<> /dev/tcp/127.0.0.1/{port}"));
}

#[test]
fn what_a_program_writes_is_limited() {
    let scene = Scene::new();
    let run = scene.run("printf '%02000000d' 0 > @/out/large");
    assert!(!run.status.success());
    assert!(fs::metadata(scene.folder.path().join("out/large")).unwrap().len() <= 1 << 20);
}

#[test]
fn what_cannot_be_set_up_starts_nothing() {
    for plan in ["", "{}", r#"{"program":"/bin/true"}"#] {
        let told = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::child", "--nocapture"])
            .env(PLAN, plan)
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&told.stderr).contains("cannot be read"), "{plan}");
    }
}
