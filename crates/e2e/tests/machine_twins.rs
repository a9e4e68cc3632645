//! Machines that are made of one image: twins where it is specialized, themselves where it is
//! generalized.

use ireko_e2e::World;
use ireko_e2e::machine::debian;
use ireko_e2e::slots::Vms;
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

/// What tells a machine from others, as it says itself.
fn identity(world: &World, container: &str) -> Vec<String> {
    world.ok(&["wait", "--for", "agent", "--timeout", "1800", container]);
    world.ok(&["exec", container, "cloud-init", "status", "--wait"]);
    let script = "hostname; cat /sys/class/net/eth0/address /etc/machine-id; \
                  cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub";
    world.ok(&["exec", container, "sh", "-c", script]).lines().map(str::to_owned).collect()
}

#[test]
fn machines_of_a_generalized_image_are_each_themselves() {
    let Some(disk) = debian("cloud") else { return };
    // Each boots for a minute where nothing accelerates it: two at a time are what others leave room for.
    let count = if std::env::var_os("IREKO_SOAK").is_some() { 5 } else { 2 };
    let world = World::new("generalized machines", Vms::Two);
    world.ok(&["image", "import", disk.to_str().expect("a path"), "debian-server"]);

    world.ok(&["run", "-d", "--name", "first", "debian-server"]);
    let used = identity(&world, "first");
    world.ok(&["exec", "first", "sh", "-c", "echo kept > /root/kept; sync"]);
    world.ok(&["stop", "first"]);
    world.ok(&["commit", "first", "used"]);
    let source = world.image_file("used");
    let before = std::fs::read(&source).expect("read the image's file");
    world.ok(&["image", "generalize", "used", "clean"]);
    assert!(std::fs::read(&source).expect("read it again") == before, "the source is untouched");
    assert_eq!(world.inspect("used", "/Ireko/Identity"), "specialized");
    assert_eq!(world.inspect("clean", "/Ireko/Identity"), "generalized");
    world.ok(&["rm", "first"]);

    assert_eq!(world.run(&["create", "--name", "one", "used"]).stderr, "");
    let warned = world.run(&["create", "--name", "two", "used"]);
    assert!(warned.stderr.contains("share machine-id, ssh host keys"), "{warned:?}");
    world.ok(&["rm", "one", "two"]);

    let names: Vec<_> = (1..=count).map(|number| format!("web{number}")).collect();
    for name in &names {
        let made = world.run(&["create", "--name", name, "--hostname", name, "clean"]);
        assert_eq!((made.code, made.stderr.as_str()), (0, ""), "nothing is shared");
    }
    let mut seen: Vec<BTreeSet<String>> = used.into_iter().map(|word| [word].into()).collect();
    assert_eq!(seen.len(), 4);
    let began = Instant::now();
    let start = Barrier::new(count);
    let found: Vec<_> = thread::scope(|scope| {
        let boot = |name: &str| {
            start.wait();
            world.ok(&["start", name]);
            let started = began.elapsed();
            let own = identity(&world, name);
            let (started, known) = (started.as_secs_f32(), began.elapsed().as_secs_f32());
            println!("{name}: started after {started:.2} s, itself after {known:.1} s: {own:?}");
            own
        };
        let boots: Vec<_> = names.iter().map(|name| scope.spawn(move || boot(name))).collect();
        boots.into_iter().map(|boot| boot.join().expect("it comes up")).collect()
    });
    for (name, own) in names.iter().zip(found) {
        assert_eq!(own[0], *name);
        assert_eq!(world.ok(&["exec", name, "cat", "/root/kept"]), "kept");
        for (word, seen) in own.into_iter().zip(&mut seen) {
            assert!(seen.insert(word), "{name} shares something: {seen:?}");
        }
    }
}
