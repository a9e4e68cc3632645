//! docker-py, a client that knows nothing of us, at work.

use ireko_e2e::World;
use ireko_e2e::programs::{repository, run};
use ireko_e2e::slots::Vms;
use std::path::PathBuf;
use std::process::Command;

/// A Python that has docker-py: the newest, or Debian's.
fn python() -> PathBuf {
    let newest = repository().join("target/fixtures/docker-py/bin/python");
    let candidates = [newest, "/usr/bin/python3".into()];
    let has_it = |python: &&PathBuf| {
        let asked = Command::new(python).args(["-c", "import docker"]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    candidates.iter().find(has_it).expect("no docker-py: `make fixtures` gets it").clone()
}

#[test]
fn docker_py_finds_all_that_it_uses() {
    let world = World::new("docker-py", Vms::Two);
    world.ok(&["run", "--rm", "base", "true"]);
    let script = repository().join("crates/e2e/tests/docker_py.py");
    let ran = run(Command::new(python()).arg(script).arg(world.socket()));
    eprint!("{}", ran.stdout);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
}
