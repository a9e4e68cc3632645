//! Networks as docker's clients administer them: labels, filters, pools that are used up, and a
//! container that runs and is connected here and there.

use ireko_e2e::docker::{self, docker};
use ireko_e2e::slots::Vms;
use ireko_e2e::talk::resolve;
use ireko_e2e::{World, run};

#[test]
fn docker_clients_label_filter_and_prune_networks_and_rewire_a_running_container() {
    let world = World::new("network administration", Vms::One);
    world.ok(&["run", "-d", "--name", "box", "base", "sleep", "3600"]);
    for (client, version) in docker::clients() {
        let ok = |args: &[&str]| docker::ok(&client, &world, &[&["network"], args].concat());
        let fails = |args: &[&str], said: &str| {
            let ran = run(&mut docker(&client, &world, &[&["network"], args].concat()));
            assert!(ran.code == 1 && ran.stderr.contains(said), "{version}: {ran:#?}");
        };
        let list = |filters: &[&str]| {
            let filters: Vec<_> = filters.iter().flat_map(|one| ["--filter", one]).collect();
            let listed = ok(&[&["ls", "--format", "{{.Name}}"], &filters[..]].concat());
            listed.replace('\n', " ")
        };
        let pool = ["--subnet", "10.89.1.0/24", "--gateway", "10.89.1.254"];
        let labels = ["--label", "tier=db", "--label", "team=a", "--ip-range", "10.89.1.128/25"];
        let id = ok(&[&["create"], &pool[..], &labels, &["back"]].concat());
        ok(&["create", "--label", "tier=web", "--internal", "front"]);

        assert_eq!(list(&["label=tier"]), "back front");
        assert_eq!(list(&["label=tier=db", "label=team"]), "back");
        assert_eq!(list(&["type=custom", "name=ront"]), "front");
        assert_eq!(list(&["driver=bridge"]), "back bridge front");
        assert_eq!(list(&["dangling=true"]), "back front");
        assert_eq!(list(&[&format!("id={}", &id[..12])]), "back");
        fails(&["ls", "--filter", "colour=red"], "invalid filter");
        let shown = ok(&["ls", "--filter", "name=back", "--format", "{{.ID}} {{.Label \"team\"}}"]);
        assert_eq!(shown, format!("{} a", &id[..12]));
        let format = "{{.Name}} {{.Driver}} {{.Internal}} {{index .Labels \"tier\"}} \
                      {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{.IPRange}}{{end}}";
        let shown = ok(&["inspect", "--format", format, "back"]);
        assert_eq!(shown, "back bridge false db 10.89.1.0/24 10.89.1.254 10.89.1.128/25");
        fails(&["create", "--ipv6", "six"], "IPv6");
        fails(&["create", "--subnet", "fd00:1::/64", "six"], "IPv6");
        fails(&["create", "--driver", "overlay", "far"], "overlay");

        let in_box =
            |script: &str| docker::ok(&client, &world, &["exec", "box", "sh", "-c", script]);
        fails(&["connect", "--ip", "10.89.2.7", "back", "box"], "contain the IP address 10.89.2.7");
        ok(&["connect", "--ip", "10.89.1.7", "--alias", "shop", "--alias", "depot", "back", "box"]);
        for name in ["box", "shop", "depot.", "box.back"] {
            assert_eq!(in_box(&resolve(name)), "10.89.1.7", "{name}, {version}");
        }
        let format = "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}";
        assert_eq!(ok(&["inspect", "--format", format, "back"]), "box 10.89.1.7/24");
        let format = "{{with .NetworkSettings.Networks.back}}{{.IPAddress}} {{.Gateway}} \
                      {{.IPAMConfig.IPv4Address}}{{end}}";
        let shown = docker::ok(&client, &world, &["inspect", "--format", format, "box"]);
        assert_eq!(shown, "10.89.1.7 10.89.1.254 10.89.1.7");
        assert_eq!(list(&["dangling=true"]), "front");
        fails(&["rm", "back"], "has active endpoints");

        // What is in use stays, what is newer than `until` stays, what has not the label stays.
        ok(&["prune", "-f", "--filter", "until=1h"]);
        ok(&["prune", "-f", "--filter", "label=tier=cache"]);
        assert_eq!(list(&["label=tier"]), "back front");
        ok(&["prune", "-f", "--filter", "label!=team"]);
        assert_eq!(list(&["label=tier"]), "back");
        ok(&["disconnect", "back", "box"]);
        fails(&["disconnect", "back", "box"], "is not connected to network back");
        assert_eq!(in_box("ls /sys/class/net"), "eth0\nlo");
        // Without an address of its own it gets the range's first.
        ok(&["connect", "back", "box"]);
        assert_eq!(
            ok(&["inspect", "--format", "{{range .Containers}}{{.IPv4Address}}{{end}}", "back"]),
            "10.89.1.128/24"
        );
        ok(&["disconnect", "-f", "back", "box"]);
        assert!(ok(&["prune", "-f"]).contains("back"));
    }
}

#[test]
fn pools_that_are_used_up_say_so_and_go_on_with_what_is_given_back() {
    let world = World::new("used up pools", Vms::One);
    // The subnet's own address and the gateway's are nobody's: the range has two.
    let pool = ["--subnet", "10.90.0.0/24", "--ip-range", "10.90.0.0/30"];
    let id = world.ok(&[&["network", "create"], &pool[..], &["small"]].concat());
    let hold = |name: &str, address: &str| {
        world.ok(&[
            "create",
            "--name",
            name,
            "--network",
            "small",
            "--ip",
            address,
            "base",
            "true",
        ]);
    };
    hold("one", "10.90.0.2");
    hold("two", "10.90.0.3");
    let full = format!("no available IPv4 addresses on this network's address pools: small ({id})");
    let start = ["run", "-d", "--name", "box", "base", "sleep", "3600"];
    world.ok(&start);
    world.run(&["run", "--rm", "--network", "small", "base", "true"]).fails_with(125, &full);
    world.run(&["network", "connect", "small", "box"]).fails_with(1, &full);
    assert_eq!(world.ok(&["exec", "box", "ls", "/sys/class/net"]), "eth0\nlo");
    world.ok(&["rm", "one"]);
    world.ok(&["network", "connect", "small", "box"]);
    assert!(world.ok(&["ip", "box"]).contains("10.90.0.2"));

    // Docker's subnets for networks whose user names none.
    let made = (0..40).take_while(|number| {
        let made = world.run(&["network", "create", &format!("n{number}")]);
        let full =
            "could not find an available, non-overlapping IPv4 address pool among the defaults";
        assert!(made.code == 0 || made.stderr.contains(full), "{made:#?}");
        made.code == 0
    });
    let made = made.count();
    assert!((1..=30).contains(&made), "{made} networks");
    world.ok(&["network", "rm", "n0"]);
    world.ok(&["network", "create", "again"]);
}

#[test]
fn an_address_said_with_its_subnet_and_gateway_names_the_network() {
    let world = World::new("an address and its subnet", Vms::None);
    let network = |name: &str, subnet: &str, gateway: &str| {
        world.ok(&["network", "create", "--subnet", subnet, "--gateway", gateway, name]);
    };
    network("lan", "10.89.3.0/24", "10.89.3.1");
    network("dmz", "10.89.4.0/24", "10.89.4.1");
    let make = |options: &str| {
        let options: Vec<_> = options.split(' ').collect();
        world.run(&[&["create"], &options[..], &["base"]].concat())
    };
    make("--name web --ip 10.89.4.9 --subnet 255.255.255.0 --gateway 10.89.4.1").ok();
    assert_eq!(world.inspect("web", "/HostConfig/NetworkMode"), "dmz");
    let address = "/NetworkSettings/Networks/dmz/IPAMConfig/IPv4Address";
    assert_eq!(world.inspect("web", address), "10.89.4.9");
    make("--ip 10.89.4.8 --subnet 16").fails_with(125, "no network is so");
    make("--ip 10.89.4.8 --subnet 24 --network lan").fails_with(125, "network lan is 10.89.3.0/24");
    make("--ip 10.89.4.8 --gateway 10.89.3.1").fails_with(125, "network create --subnet");
    make("--subnet 24").fails_with(1, "--ip");
    assert_eq!(world.ok(&["ps", "-aq"]).lines().count(), 1);
}
