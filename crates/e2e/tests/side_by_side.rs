//! A whole operating system and two app images at once, as the stock docker client sees them: all are
//! containers.

use ireko_e2e::World;
use ireko_e2e::docker::{self, docker};
use ireko_e2e::machine::debian;
use ireko_e2e::run;
use ireko_e2e::slots::Vms;
use ireko_e2e::talk::{ask, resolve, serve};

#[test]
fn a_machine_and_two_apps_are_listed_reached_asked_and_read_alike() {
    let Some(disk) = debian("bios") else { return };
    let world = World::new("a machine and two apps", Vms::Three);
    world.ok(&["image", "import", disk.to_str().expect("a path"), "debian-server"]);
    world.ok(&["image", "prepare", "debian-server", "prepared"]);
    let client = docker::client();
    let ok = |args: &[&str]| docker::ok(&client, &world, args);
    ok(&["network", "create", "shop"]);
    let start = |name: &str, memory: &str, words: &[&str]| {
        let options =
            ["run", "-d", "--name", name, "--hostname", name, "--network", "shop", "-m", memory];
        ok(&[&options[..], words].concat())
    };
    start("vm", "512m", &["prepared"]);
    for name in ["web", "db"] {
        let script = format!("echo {name} is up; {}", serve(name));
        start(name, "128m", &["base", "sh", "-c", &script]);
    }
    world.ok(&["wait", "--for", "agent", "--timeout", "600", "vm"]);
    world.ok(&["wait", "--for", "ip", "--timeout", "600", "vm"]);

    let listed = ok(&["ps", "--format", "{{.Names}} {{.Image}} {{.State}}"]);
    let mut listed: Vec<_> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, ["db base running", "vm prepared running", "web base running"]);
    let members =
        ok(&["network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", "shop"]);
    let mut members: Vec<_> = members.split_whitespace().collect();
    members.sort_unstable();
    assert_eq!(members, ["db", "vm", "web"]);

    // A whole operating system has the name that is written on its disk.
    for (name, own) in [("vm", "debian"), ("web", "web"), ("db", "db")] {
        assert_eq!(ok(&["exec", name, "uname", "-n"]), own);
        let script = "echo out; echo err >&2; cat; exit 5";
        let ran = run(&mut docker(&client, &world, &["exec", "-i", name, "sh", "-c", script]));
        assert_eq!((ran.code, &*ran.stdout, &*ran.stderr), (5, "out\n", "err\n"), "{name}");
    }

    let address = |name: &str| {
        ok(&["inspect", "-f", "{{(index .NetworkSettings.Networks \"shop\").IPAddress}}", name])
    };
    // This system has nothing that listens to what DHCP says of names.
    let server = ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "shop"]);
    let script = format!("echo nameserver {server} > /etc/resolv.conf");
    ok(&["exec", "vm", "sh", "-c", &script]);
    let names = ["vm", "web", "db"].map(|name| (name, address(name)));
    for (name, address) in &names {
        for asked in ["web", "db"] {
            let said = ok(&["exec", asked, "sh", "-c", &resolve(name)]);
            assert_eq!(said, *address, "{asked} asks for {name}");
        }
        let hosts = ok(&["exec", "vm", "getent", "ahostsv4", name]);
        assert!(hosts.starts_with(&format!("{address} ")), "vm asks for {name}: {hosts}");
    }
    assert_eq!(ok(&["exec", "web", "sh", "-c", &ask("db 80", true)]), "db");
    ok(&["exec", "db", "ping", "-c", "1", "-W", "60", "vm"]);
    // One listens after the other there.
    let script = "for i in $(seq 600); do w=$(cat < /dev/tcp/web/80) && [ \"$w\" ] && break; sleep 0.1; done \
                  2>/dev/null; echo $w";
    assert_eq!(ok(&["exec", "vm", "bash", "-c", script]), "web");

    assert_eq!(ok(&["logs", "web"]), "web is up");
    assert_eq!(ok(&["logs", "db"]), "db is up");
    world.ok(&["wait", "--for", "log=login:", "--timeout", "600", "vm"]);
    assert!(ok(&["logs", "vm"]).contains("login:"), "its serial console");
    ok(&["rm", "-f", "vm", "web", "db"]);
    assert_eq!(ok(&["ps", "-aq"]), "");
}
