//! A network of Ireko's beside QEMU's own user networking (slirp) and beside TAP devices on a Linux
//! bridge, in the same guests at the same time.
//!
//! ```text
//!   cargo bench -p ireko-e2e --bench network        (or `make bench`)
//!
//!   guest ─eth0─ switch ──────────┐
//!         ─eth1─ TAP ─ bridge ────┼─ host             a second guest on eth0 and eth1
//!         ─eth2─ slirp ───────────┘
//! ```
//!
//! Prints medians and ratios of one run; asserts nothing. `IREKO_BENCH_MIB` sets how much is sent
//! each time (64), `IREKO_BENCH_ROUNDS` how often (5). TAP devices take privilege; without it that
//! column is left out.

use ireko_e2e::guest_program::{give_talker, talker};
use ireko_e2e::outside::ip;
use ireko_e2e::slots::Vms;
use ireko_e2e::{World, run};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A way between guest and host.
struct Way {
    name: &'static str,
    /// The host's talker as the guest sees it.
    host: String,
    /// The guest's as the host does.
    guest: String,
    /// And as the other guest does; `None` where it cannot.
    neighbour: Option<String>,
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn main() {
    let mib = setting("IREKO_BENCH_MIB", 64);
    let rounds = setting("IREKO_BENCH_ROUNDS", 5);
    let world = World::new("network bench", Vms::Two);
    let bridge = Bridge::new();
    let hostfwd = free_port();
    start_daemon(&world, hostfwd);
    world.ok(&["network", "create", "--subnet", "10.87.0.0/24", "net"]);
    let server = Server::start(&world);
    let ways = start_guests(&world, bridge.is_some(), hostfwd, server.port);

    let bytes = (mib << 20).to_string();
    let rate = |seconds: f64| mib as f64 / seconds;
    let in_guest = |words: &[&str]| -> f64 {
        let took = world.ok(&[&["exec", "one", "/bin/talker"][..], words].concat());
        took.parse().expect("seconds")
    };
    let on_host = |words: &[&str]| -> f64 {
        run(Command::new(host_talker(&world)).args(words)).ok().trim().parse().expect("seconds")
    };
    type Measure<'a> = &'a dyn Fn(&Way) -> Option<f64>;
    let lines: [(&str, Measure); 8] = [
        ("guest to host, MiB/s", &|way| Some(rate(in_guest(&["up", &way.host, &bytes])))),
        ("host to guest, MiB/s", &|way| Some(rate(in_guest(&["down", &way.host, &bytes])))),
        ("client to guest, MiB/s", &|way| Some(rate(on_host(&["up", &way.guest, &bytes])))),
        ("guest to client, MiB/s", &|way| Some(rate(on_host(&["down", &way.guest, &bytes])))),
        ("guest to guest, MiB/s", &|way| {
            Some(rate(in_guest(&["up", way.neighbour.as_ref()?, &bytes])))
        }),
        ("byte there and back, guest to host, ms", &|way| {
            Some(in_guest(&["echo", &way.host, "300"]) * 1000.0 / 300.0)
        }),
        ("the same, client to guest, ms", &|way| {
            Some(on_host(&["echo", &way.guest, "300"]) * 1000.0 / 300.0)
        }),
        ("a connection, guest to host, ms", &|way| {
            Some(in_guest(&["short", &way.host, "100"]) * 1000.0 / 100.0)
        }),
    ];
    for way in &ways[1..] {
        print!("{:>50} {:>9} {:>9}", "", ways[0].name, way.name);
        println!(" ratio");
        for (name, measure) in &lines {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                // Each begins as often as the other.
                let order: [&Way; 2] =
                    if round % 2 == 0 { [&ways[0], way] } else { [way, &ways[0]] };
                for one in order {
                    let all = if one.name == way.name { &mut theirs } else { &mut ours };
                    all.extend(measure(one));
                }
            }
            let (Some(ours), Some(theirs)) = (median(ours), median(theirs)) else { continue };
            println!("{name:>50} {ours:>9.2} {theirs:>9.2} {:>5.2}", ours / theirs);
        }
    }
}

fn median(mut all: Vec<f64>) -> Option<f64> {
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// The same program as in the guests.
fn host_talker(world: &World) -> PathBuf {
    world.root().join("bench/talker")
}

/// The talker that serves on the host; it goes with this value.
struct Server {
    port: u16,
    process: Child,
}

impl Server {
    fn start(world: &World) -> Self {
        let program = host_talker(world);
        fs::write(&program, talker()).expect("write the talker");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
        let port = free_port();
        let process = Command::new(program).args(["serve", &port.to_string()]).spawn();
        Self { port, process: process.expect("serve") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The first guest gets a second kind of card, by a QEMU that is told to add it.
fn start_daemon(world: &World, hostfwd: u16) {
    let folder = world.root().join("bench");
    fs::create_dir_all(&folder).expect("a folder");
    let (wrapper, once) = (folder.join("qemu-system-x86_64"), folder.join("once"));
    let text = format!(
        "#!/bin/sh\n\
         case \"$*\" in *id=nic0*) if rm {once} 2>/dev/null; then set -- \"$@\" \
         -netdev user,id=slirp,hostfwd=tcp:127.0.0.1:{hostfwd}-:7000 \
         -device virtio-net-pci,id=other,netdev=slirp,mac=52:54:00:00:00:77,romfile=; fi; esac\n\
         exec {qemu} \"$@\"\n",
        once = once.display(),
        qemu = find_qemu().display(),
    );
    fs::write(&once, "").expect("write");
    fs::write(&wrapper, text).expect("write the wrapper");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("make it a program");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = world.ireko(&["version"]);
    let started = command.env("PATH", format!("{}:{path}", folder.display())).output();
    assert!(started.expect("run ireko").status.success(), "the daemon does not start");
}

fn find_qemu() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).map(|folder| folder.join("qemu-system-x86_64"));
    all.into_iter().find(|file| Path::is_file(file)).expect("QEMU")
}

fn start_guests(world: &World, bridged: bool, hostfwd: u16, port: u16) -> Vec<Way> {
    let serve = "while [ ! -x /bin/talker ]; do sleep 0.1; done; exec /bin/talker serve 7000";
    let start = ["--network", "net", "-p", "127.0.0.1::7000", "base", "sh", "-c", serve];
    let parent = format!("parent={}", Bridge::NAME);
    if bridged {
        let create = ["network", "create", "-d", "bridged", "-o", &parent];
        world.ok(&[&create[..], &["--subnet", "198.18.79.0/24", "lan"]].concat());
    }
    for name in ["one", "two"] {
        // A template has no card of another kind.
        world.ok(&[&["create", "--start", "cold", "--name", name][..], &start].concat());
        if bridged {
            world.ok(&["network", "connect", "lan", name]);
        }
        world.ok(&["start", name]);
        give_talker(world, name);
        world.ok(&["wait", "--for", "port=7000", name]);
    }
    let slirp = "for d in /sys/class/net/*; do \
                 [ $(cat $d/address) = 52:54:00:00:00:77 ] && n=${d##*/}; done; \
                 ip addr add 10.0.2.15/24 dev $n && ip link set $n up";
    world.ok(&["exec", "one", "sh", "-c", slirp]);
    let address = |name, network: usize| {
        let all = world.ok(&["ip", name]);
        all.lines().nth(network).expect("an address").to_owned()
    };
    let mut ways = vec![
        Way {
            name: "ireko",
            host: format!("10.87.0.1:{port}"),
            guest: world.ok(&["port", "one", "7000"]),
            neighbour: Some(format!("{}:7000", address("two", 0))),
        },
        Way {
            name: "slirp",
            host: format!("10.0.2.2:{port}"),
            guest: format!("127.0.0.1:{hostfwd}"),
            neighbour: None,
        },
    ];
    if bridged {
        ways.push(Way {
            name: "bridge",
            host: format!("198.18.79.1:{port}"),
            guest: format!("{}:7000", address("one", 1)),
            neighbour: Some(format!("{}:7000", address("two", 1))),
        });
    }
    ways
}

/// A bridge of the host's; it goes with this value.
struct Bridge;

impl Bridge {
    const NAME: &str = "irkbench";

    fn new() -> Option<Self> {
        let made = ip(&format!("link add {} type bridge", Self::NAME)).then_some(Self)?;
        let up = ip(&format!("addr add 198.18.79.1/24 dev {}", Self::NAME))
            && ip(&format!("link set {} up", Self::NAME));
        up.then_some(made)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ip(&format!("link del {}", Self::NAME));
    }
}
