//! The real docker clients: whatever is on PATH, and Debian's.

use crate::programs::{repository, run};
use crate::world::World;
use std::path::PathBuf;
use std::process::Command;

/// The clients this machine has, each with its version; prints what is missing.
pub fn clients() -> Vec<(PathBuf, String)> {
    let debian = repository().join("target/fixtures/docker-debian/docker");
    let mut found = Vec::new();
    for path in [PathBuf::from("docker"), debian] {
        match Command::new(&path).arg("--version").output() {
            Ok(output) if output.status.success() => {
                let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                found.push((path, version));
            }
            _ => eprintln!("skipped: no docker client at {}", path.display()),
        }
    }
    found
}

/// One docker client is enough where it is not the client that is tested.
pub fn client() -> PathBuf {
    clients().into_iter().next().expect("no docker client: `make fixtures` gets Debian's").0
}

/// `docker ARGS` against a world's socket.
pub fn docker(client: &std::path::Path, world: &World, args: &[&str]) -> Command {
    let mut command = Command::new(client);
    command.arg("-H").arg(world.socket()).args(args);
    // The user's own contexts and credentials stay out of it.
    command.env("DOCKER_CONFIG", world.root().join("docker-config")).env_remove("DOCKER_HOST");
    command
}

/// Runs `docker ARGS`, which must succeed.
#[track_caller]
pub fn ok(client: &std::path::Path, world: &World, args: &[&str]) -> String {
    run(&mut docker(client, world, args)).ok().trim_end().to_owned()
}
