//! Networks on a bridge of the host's.

use ireko_e2e::outside::{Outside, ip};
use ireko_e2e::slots::Vms;
use ireko_e2e::talk::{ask, host_server, read_soon, serve};
use ireko_e2e::{World, programs, run};
use std::process::Command;

/// A bridge of the host's; it goes with this value.
struct Bridge(String);

impl Bridge {
    fn new(letter: char, address: &str) -> Option<Self> {
        let bridge = Self(format!("irkb{letter}{}", std::process::id() % 100_000));
        let name = &bridge.0;
        let made = ip(&format!("link add {name} type bridge"))
            && ip(&format!("addr add {address}/24 dev {name}"))
            && ip(&format!("link set {name} up"));
        made.then_some(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.0));
    }
}

fn taps() -> usize {
    let devices = std::fs::read_dir("/sys/class/net").expect("/sys/class/net").flatten();
    devices.filter(|one| one.path().join("tun_flags").exists()).count()
}

#[test]
fn on_a_bridge_of_the_hosts_all_reach_all() {
    let Some(bridge) = Bridge::new('a', "198.18.78.1") else { return };
    let Some(outside) = Outside::on_bridge(&bridge.0, "198.18.78.99") else { return };
    outside.speak(7000);
    let host = host_server("host");
    let before = taps();
    let world = World::new("bridged", Vms::Two);
    let parent = format!("parent={}", bridge.0);
    let create = ["network", "create", "-d", "bridged"];
    let subnet = ["--subnet", "198.18.78.0/24", "--ip-range", "198.18.78.8/29"];
    let refused = |options: &[&str], said: &str| {
        world.run(&[&create[..], options, &["lan"]].concat()).fails_with(1, said);
    };
    refused(&subnet, "--opt parent=br0");
    refused(&["-o", &parent], "name them by --subnet");
    refused(&["-o", "parent=nobody", subnet[0], subnet[1]], "the host has no bridge \"nobody\"");
    refused(&[&subnet[..], &["-o", &parent, "--internal"]].concat(), "cannot be internal");
    world.ok(&[&create[..], &subnet, &["-o", &parent, "lan"]].concat());

    let word = serve("guest");
    world
        .run(&["run", "--rm", "--network", "lan", "-p", "80", "base", "true"])
        .fails_with(125, "network lan publishes no ports");
    let one = ["run", "-d", "--name", "one", "--network", "lan", "base", "sh", "-c", &word];
    world.ok(&one);
    world.ok(&["wait", "--for", "port=80", "one"]);
    let address = world.ok(&["ip", "one"]);
    assert_eq!(address, "198.18.78.8");

    // The second comes to the bridge while it runs.
    world.ok(&["run", "-d", "--name", "two", "base", "sleep", "3600"]);
    world.ok(&["network", "connect", "lan", "two"]);
    let script = [
        ask(&format!("198.18.78.1 {host}"), true),
        ask("198.18.78.99 7000", true),
        ask(&format!("{address} 80"), true),
    ]
    .join(";");
    let said = world.ok(&["exec", "two", "sh", "-c", &script]);
    let heard: Vec<_> = said.lines().map(str::trim).collect();
    assert_eq!(heard, ["host", "outside", "guest"], "guest to host, outside, guest");
    assert_eq!(read_soon(&format!("{address}:80")), "guest\n", "host to guest");
    let from_outside = (0..20).any(|_| outside.ask(&address, "80") == "guest");
    assert!(from_outside, "outside to guest");

    world.ok(&["network", "disconnect", "lan", "two"]);
    world.ok(&["rm", "-f", "one", "two"]);
    assert_eq!(taps(), before, "its devices are gone");
}

#[test]
fn without_privilege_a_bridged_network_says_what_it_takes() {
    let Some(bridge) = Bridge::new('b', "198.18.79.1") else { return };
    let world = World::new("bridged without privilege", Vms::One);
    let ireko = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]);
        run(command.arg(programs::ireko()).arg("--root").arg(world.root()).args(args))
    };
    let parent = format!("parent={}", bridge.0);
    let create = ["network", "create", "-d", "bridged", "--subnet", "198.18.79.0/24"];
    ireko(&[&create[..], &["-o", &parent, "lan"]].concat()).ok();
    ireko(&["run", "--rm", "--network", "lan", "base", "true"])
        .fails_with(125, "takes the privilege to administrate networks");
}
