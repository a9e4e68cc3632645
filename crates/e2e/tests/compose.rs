//! docker compose, whichever this machine has, makes a network and what is in it.

use ireko_e2e::docker::{self, client};
use ireko_e2e::slots::Vms;
use ireko_e2e::talk::{ask, read_soon, serve};
use ireko_e2e::{World, run};
use std::process::Command;

const FILE: &str = r#"
version: "2.4"
services:
  db:
    image: base
    command: ["sh", "-c", "SERVE"]
    networks: { back: { ipv4_address: 172.240.0.9, aliases: [store] } }
    ports: ["127.0.0.1::80"]
  web:
    image: base
    command: ["sleep", "36000"]
    depends_on: [db]
    networks: { back: { ipv4_address: 172.240.0.10 } }
networks:
  back: { ipam: { config: [{ subnet: 172.240.0.0/24 }] } }
"#;

/// `docker compose` where the client has it, else the program of its own.
fn compose(world: &World, args: &[&str]) -> Option<Command> {
    let file = world.root().join("compose.yml");
    std::fs::write(&file, FILE.replace("SERVE", &serve("rows"))).expect("write compose.yml");
    let is_there = |command: &mut Command| command.output().is_ok_and(|ran| ran.status.success());
    let mut command = if is_there(Command::new(client()).args(["compose", "version"])) {
        let mut command = Command::new(client());
        command.arg("compose");
        command
    } else if is_there(Command::new("docker-compose").arg("version")) {
        Command::new("docker-compose")
    } else {
        eprintln!("skipped: no docker compose (package docker-compose)");
        return None;
    };
    command.env("DOCKER_HOST", world.socket()).arg("-p").arg("shop").arg("-f").arg(file);
    command.env("DOCKER_CONFIG", world.root().join("docker-config")).args(args);
    Some(command)
}

#[test]
fn compose_brings_up_and_takes_down_a_network_with_addresses_and_names() {
    let world = World::new("compose", Vms::Two);
    // The built-in image is there once it was used.
    world.ok(&["create", "--name", "first", "base", "true"]);
    world.ok(&["rm", "first"]);
    let said = world.run(&["network", "create", "--subnet", "172.241.0.0/24", "public"]);
    assert!(said.stderr.contains("WARNING: 172.241.0.0/24 has addresses of the public Internet"));
    let compose = |args: &[&str]| compose(&world, args).map(|mut command| run(&mut command).ok());
    if compose(&["up", "-d"]).is_none() {
        return;
    }
    let ok = |args: &[&str]| docker::ok(&client(), &world, args);
    assert!(ok(&["network", "inspect", "shop_back"]).contains("172.240.0.0/24"));
    let found = ok(&["ps", "--format", "{{.Names}}"]);
    let name = |service: &str| {
        found.lines().find(|line| line.contains(service)).expect("a container").to_owned()
    };
    let (db, web) = (name("db"), name("web"));
    assert_eq!(world.ok(&["ip", &db]), "172.240.0.9");
    assert_eq!(world.ok(&["ip", &web]), "172.240.0.10");
    let asks = ["db", "store", "172.240.0.9"].map(|name| ask(&format!("{name} 80"), true));
    let said = ok(&["exec", &web, "sh", "-c", &asks.join(";")]);
    assert_eq!(said.lines().collect::<Vec<_>>(), ["rows"; 3], "{said}");
    assert_eq!(read_soon(&ok(&["port", &db, "80"])), "rows\n");
    compose(&["up", "-d"]);
    assert_eq!(ok(&["ps", "--format", "{{.Names}}"]), found, "nothing is made anew");
    compose(&["down", "-t", "0"]);
    assert_eq!(ok(&["ps", "-aq"]), "");
    assert!(!ok(&["network", "ls"]).contains("shop_back"));
}
