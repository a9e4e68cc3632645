//! Networks and addresses of containers that run.

use ireko_e2e::docker::{self, client, docker};
use ireko_e2e::programs::{await_death, kill};
use ireko_e2e::slots::Vms;
use ireko_e2e::talk::{ask, read_soon, resolve, serve};
use ireko_e2e::{World, run};
use std::path::PathBuf;

#[test]
fn a_running_container_joins_and_leaves_networks_and_its_names_go_with_it() {
    let world = World::new("networks while it runs", Vms::Two);
    let client = client();
    world.ok(&["network", "create", "--subnet", "10.81.0.0/24", "one"]);
    world.ok(&["network", "create", "--subnet", "10.82.0.0/24", "two"]);
    let ok = |args: &[&str]| docker::ok(&client, &world, args);
    let fails = |args: &[&str], said: &str| {
        run(&mut docker(&client, &world, args)).fails_with(1, said);
    };
    let word = serve("moved");
    ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "one",
        "-p",
        "127.0.0.1::80",
        "base",
        "sh",
        "-c",
        &word,
    ]);
    ok(&["run", "-d", "--name", "asker", "--network", "two", "base", "sleep", "3600"]);
    let in_asker = |script: &str| ok(&["exec", "asker", "sh", "-c", script]);
    for at in ["web 80", "10.81.0.2 80"] {
        assert_eq!(in_asker(&ask(at, false)), "", "{at}: they have no network in common");
    }

    ok(&["network", "connect", "--ip", "10.82.0.7", "--alias", "shop", "two", "web"]);
    fails(&["network", "connect", "two", "web"], "already exists in network two");
    assert_eq!(in_asker(&resolve("shop")), "10.82.0.7");
    assert_eq!(in_asker(&ask("shop 80", true)), "moved");
    let devices = ok(&["exec", "web", "ip", "-o", "-4", "addr"]);
    assert!(devices.contains("10.81.0.2/24") && devices.contains("10.82.0.7/24"), "{devices}");
    assert!(ok(&["exec", "web", "cat", "/etc/hosts"]).contains("10.82.0.7"));
    let at = ok(&["port", "web", "80"]);
    assert_eq!(read_soon(&at), "moved\n", "its published port is the same network's as before");

    ok(&["rename", "web", "store"]);
    assert_eq!(in_asker(&resolve("store")), "10.82.0.7");
    assert_eq!(in_asker(&resolve("web")), "", "nobody is called that any more");

    world.ok(&["ip", "set", "--network", "two", "--dns", "192.0.2.53", "store", "10.82.0.9/24"]);
    assert_eq!(in_asker(&resolve("store")), "10.82.0.9");
    assert_eq!(in_asker(&ask("store 80", true)), "moved");
    let said = "10.82.1.9/24 is no address of network two, which is 10.82.0.0/24";
    world.run(&["ip", "set", "--network", "two", "store", "10.82.1.9/24"]).fails_with(1, said);
    let taken = world.ok(&["ip", "asker"]) + "/24";
    world.run(&["ip", "set", "--network", "two", "store", &taken]).fails_with(1, "already in use");

    // With its first network its published ports and its way outside go to the other.
    ok(&["network", "disconnect", "-f", "one", "store"]);
    fails(&["network", "disconnect", "one", "store"], "is not connected to network one");
    assert_eq!(ok(&["port", "store", "80"]), at);
    assert_eq!(read_soon(&at), "moved\n");
    let devices = ok(&["exec", "store", "sh", "-c", "ls /sys/class/net; ip route"]);
    assert!(!devices.contains("eth0") && devices.contains("default via 10.82.0.1"), "{devices}");

    ok(&["network", "disconnect", "two", "store"]);
    assert_eq!(in_asker(&resolve("store")), "");
    assert_eq!(ok(&["exec", "store", "ls", "/sys/class/net"]), "lo");
    ok(&["network", "connect", "one", "store"]);
    assert_eq!(read_soon(&ok(&["port", "store", "80"])), "moved\n");
}

/// A machine of Debian's with systemd-networkd, an ssh server and a qemu-guest-agent.
fn debian() -> Option<PathBuf> {
    let cache = std::env::var_os("IREKO_CACHE").map(PathBuf::from);
    let disk = cache?.join("fixtures/debian-machine-bios.raw");
    if !disk.exists() {
        eprintln!("skipped: {} is missing (`make fixtures` makes it)", disk.display());
        return None;
    }
    Some(disk)
}

#[test]
fn a_whole_operating_system_follows_its_networks_by_dhcp() {
    let Some(disk) = debian() else { return };
    let world = World::new("networks of a machine", Vms::One);
    world.ok(&["image", "import", disk.to_str().expect("a path"), "debian-server"]);
    world.ok(&["network", "create", "--subnet", "10.83.0.0/24", "one"]);
    world.ok(&["network", "create", "--subnet", "10.84.0.0/24", "two"]);
    world.ok(&["run", "-d", "--name", "box", "--network", "one", "debian-server"]);
    world.ok(&["wait", "--for", "port=22", "--timeout", "600", "box"]);
    world.ok(&["wait", "--for", "agent", "--timeout", "600", "box"]);
    let addresses = || world.ok(&["exec", "box", "hostname", "-I"]);
    let has = |wanted: &[&str]| {
        for _ in 0..300 {
            let found = addresses();
            let mut found: Vec<_> = found.split_whitespace().filter(|a| !a.contains(':')).collect();
            found.sort_unstable();
            if found == wanted {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        panic!("{:?} is not {wanted:?}", addresses());
    };
    has(&["10.83.0.2"]);

    world.ok(&["network", "connect", "--ip", "10.84.0.7", "two", "box"]);
    has(&["10.83.0.2", "10.84.0.7"]);
    world.ok(&["ip", "set", "box", "10.83.0.9/24"]);
    has(&["10.83.0.9", "10.84.0.7"]);
    assert_eq!(world.ok(&["ip", "box"]), "10.83.0.9\n10.84.0.7");

    // The next daemon knows what the last one did.
    let daemon = world.process("daemon");
    kill(daemon);
    await_death(daemon);
    world.ok(&["network", "disconnect", "one", "box"]);
    has(&["10.84.0.7"]);
    world.ok(&["wait", "--for", "port=22", "box"]);
}
