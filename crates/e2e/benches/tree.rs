//! What create and commit cost, and that it does not depend on what was written before.
//!
//! ```text
//!   cargo bench -p ireko-e2e --bench tree        (or `make bench`)
//! ```
//!
//! Prints medians and ratios of one run; asserts nothing. `IREKO_BENCH_MIB` sets how much is
//! written before the large commits (2048).

use ireko_e2e::World;
use ireko_e2e::slots::Vms;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;

fn main() {
    let mib: u64 =
        std::env::var("IREKO_BENCH_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(2048);
    let world = World::new("bench", Vms::One);
    world.ok(&["create", "--name", "first", "base", "true"]);

    let call = median(|_| time(|| drop(world.ok(&["version"]))));
    let create = median(|_| time(|| drop(world.ok(&["create", "base", "true"]))));
    let kib = scratch_kib(&world, "first");
    println!("the shortest call (version)              {:>9.1} ms", ms(call));
    println!(
        "create, 64 GiB virtual                   {:>9.1} ms  {kib} KiB allocated",
        ms(create)
    );

    world.ok(&["run", "-d", "--name", "load", "base", "sh", "-c", STALL_METER]);
    let empty = median(|round| commit(&world, &format!("empty{round}")));
    println!("commit of a running container, empty     {:>9.1} ms", ms(empty));

    let write = format!("dd if=/dev/zero of=/big bs=1M count={mib} 2>/dev/null");
    world.ok(&["exec", "load", "sh", "-c", &format!("{write}; sync")]);
    let synced = commit(&world, "synced");
    println!(
        "  {mib} MiB written and synced             {:>9.1} ms  {:.2} x empty",
        ms(synced),
        ratio(synced, empty)
    );

    world.ok(&["exec", "load", "sh", "-c", &write]);
    let dirty = commit(&world, "dirty");
    println!(
        "  {mib} MiB written, not synced            {:>9.1} ms  {:.2} x empty",
        ms(dirty),
        ratio(dirty, empty)
    );

    let stall = world.ok(&["exec", "load", "cat", "/longest"]);
    println!("the guest's longest write stall          {stall:>9} ms  (10 ms steps, all commits)");

    world.ok(&["stop", "-t", "0", "load"]);
    let stopped = time(|| drop(world.ok(&["commit", "load", "stopped"])));
    println!("commit of a stopped container            {:>9.1} ms", ms(stopped));
    drop(world);
    crowd();
}

/// Listing, drawing and creating in a root of a thousand images and a thousand containers, beside
/// one of a few. `IREKO_BENCH_NODES` sets how many.
fn crowd() {
    let nodes = std::env::var("IREKO_BENCH_NODES").ok().and_then(|n| n.parse().ok());
    let nodes: usize = nodes.unwrap_or(1000);
    let [few, many] = [10, nodes].map(|nodes| {
        let world = World::new(&format!("{nodes} images and containers"), Vms::None);
        fill(&world, nodes);
        let calls: [&[&str]; 4] = [&["version"], &["tree"], &["images"], &["ps", "-a"]];
        let mut times: Vec<_> =
            calls.iter().map(|call| median(|_| time(|| drop(world.ok(call))))).collect();
        times.push(median(|_| time(|| drop(world.ok(&["create", "image0"])))));
        times
    });
    println!("\nwith 10 and with {nodes} images and containers");
    for (what, (few, many)) in
        ["version", "tree", "images", "ps -a", "create"].iter().zip(few.into_iter().zip(many))
    {
        println!("{what:<40} {:>9.1} ms {:>9.1} ms  {:.2} x", ms(few), ms(many), ratio(many, few));
    }
}

/// Ten chains of images, each image with a container.
fn fill(world: &World, nodes: usize) {
    let images = world.root().join("images");
    fs::create_dir_all(&images).expect("a folder");
    let file = |n: usize| {
        images.join(format!("image{n}_00000000-0000-4000-8000-{n:012}.vhdx")).display().to_string()
    };
    for n in 0..nodes {
        match n.checked_sub(10) {
            Some(parent) => world.ok(&["vhd", "create", &file(n), "-p", &file(parent)]),
            None => world.ok(&["vhd", "create", &file(n), "-s", "64g"]),
        };
    }
    for n in 0..nodes {
        world.ok(&["create", &format!("image{n}")]);
    }
}

/// Writes to the root disk without a pause and keeps the longest time between two writes that
/// began while nothing else was asked of the guest; /proc/uptime counts hundredths of a second.
const STALL_METER: &str = "longest=0; last=; while :; do \
    echo x > /tick; read now _ < /proc/uptime; now=${now%.*}${now#*.}; \
    if [ -n \"$last\" ]; then gap=$(( (now - last) * 10 )); \
    [ -e /armed ] && [ $gap -gt $longest ] && { longest=$gap; echo $longest > /longest; }; fi; \
    last=$now; done";

fn commit(world: &World, name: &str) -> Duration {
    world.ok(&["exec", "load", "sh", "-c", "touch /armed; [ -e /longest ] || echo 0 > /longest"]);
    let took = time(|| drop(world.ok(&["commit", "load", name])));
    world.ok(&["exec", "load", "rm", "/armed"]);
    took
}

fn scratch_kib(world: &World, container: &str) -> u64 {
    let folder = fs::read_dir(world.container_dir(container)).expect("a container's folder");
    let disk =
        folder.flatten().find(|entry| entry.path().extension().is_some_and(|end| end == "vhdx"));
    disk.expect("a scratch disk").metadata().expect("its size").blocks() / 2
}

fn time(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn median(mut measure: impl FnMut(usize) -> Duration) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS).map(&mut measure).collect();
    times.sort();
    times[ROUNDS / 2]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}
