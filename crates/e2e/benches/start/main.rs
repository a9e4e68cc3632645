//! How long a container takes from the command to its end: `ireko run --rm base echo hi`, cold, from a
//! template and in a VM that stood by, of images of three sizes, on a deep chain and among neighbours; what
//! an idle one takes of the host's memory; and the same by `docker`, beside Docker's own daemon.
//!
//! ```text
//!   cargo bench -p ireko-e2e --bench start [-- SECTION…]       (or `make bench`)
//! ```
//! Prints medians, the slowest twentieth and ratios of one run; asserts nothing. Sections: `alone` (always),
//! `dockerd`, `sizes`, `network`, `deep`, `neighbours`. `IREKO_BENCH_ROUNDS` sets how often each is measured (30),
//! `IREKO_BENCH_NEIGHBOURS` among how many (8), `IREKO_BENCH_GIB` how much the large image holds (2).
//! Docker's daemon takes part where this machine has one on its PATH, and needs root.

mod dockerd;
mod images;

use dockerd::Dockerd;
use ireko_e2e::slots::Vms;
use ireko_e2e::{World, docker, run};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// Layers of the deep chain.
const DEEP: usize = 64;

fn main() {
    let sections: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let wants = |section: &str| sections.is_empty() || sections.iter().any(|one| one == section);
    let bench = Bench::new();
    let (template, pool) = bench.alone();
    if wants("dockerd") {
        bench.beside_dockerd();
    }
    if wants("sizes") {
        bench.sizes();
    }
    if wants("network") {
        bench.network();
    }
    if wants("deep") {
        bench.deep(&template, &pool);
    }
    if wants("neighbours") {
        bench.neighbours(&template, &pool);
    }
}

struct Bench {
    world: World,
    rounds: usize,
}

impl Bench {
    fn new() -> Self {
        let world = World::new("start", Vms::Two);
        run(world.ireko(&["version"]).env("IREKO_POOL", "1")).ok();
        Self { world, rounds: setting("IREKO_BENCH_ROUNDS", 30) }
    }

    fn run(&self, start: &str, image: &str) -> Duration {
        if start == "pool" {
            // Ready before the clock runs, as it is for whoever takes a second between two commands.
            self.world.ok(&["warm"]);
        }
        let words = ["run", "--rm", "--start", start, image, "echo", "hi"];
        timed(&mut self.world.ireko(&words))
    }

    fn alone(&self) -> (Times, Times) {
        self.run("template", "base");
        let cold = Times::of(self.rounds.div_ceil(3), || self.run("cold", "base"));
        let template = Times::of(self.rounds, || self.run("template", "base"));
        let pool = Times::of(self.rounds, || self.run("pool", "base"));
        cold.print("cold", None);
        template.print("from a template", Some(&cold));
        pool.print("in a VM that stood by", Some(&template));
        (template, pool)
    }

    /// Turn by turn, by the same client.
    fn beside_dockerd(&self) {
        let Some((client, _)) = docker::clients().into_iter().next() else { return };
        let Some(dockerd) = Dockerd::start(&self.world, &client) else { return };
        let words = ["run", "--rm", "base", "echo", "hi"];
        let theirs = || timed(dockerd.docker(&client).args(words));
        let ours = || {
            self.world.ok(&["warm"]);
            timed(&mut docker::docker(&client, &self.world, &words))
        };
        let by_ireko = || self.run("pool", "base");
        theirs();
        let [theirs, ours, by_ireko] = in_turn(self.rounds, [&theirs, &ours, &by_ireko]);
        theirs.print("`docker run`, dockerd and runc", None);
        ours.print("`docker run`, ireko, in a VM that stood by", Some(&theirs));
        by_ireko.print("`ireko run`, in a VM that stood by", Some(&theirs));
    }

    fn sizes(&self) {
        let gib = setting("IREKO_BENCH_GIB", 2);
        let written = images::written(&self.world, gib);
        let huge = images::huge(&self.world);
        for (start, how) in [("template", "from a template"), ("pool", "in a VM that stood by")] {
            let of = |image: &'static str| move || self.run(start, image);
            let [small, large, huge] = in_turn(self.rounds, [&of("base"), &of(written), &of(huge)]);
            small.print(&format!("{how}, image of 9 MiB"), None);
            large.print(&format!("{how}, of {gib} GiB"), Some(&small));
            huge.print(&format!("{how}, disk of 1 TiB"), Some(&small));
        }
    }

    /// What an own address, name and MAC cost.
    fn network(&self) {
        let words = ["run", "--rm", "--start", "template", "base", "echo", "hi"];
        let alone = [&words[..2], &["--network", "none"], &words[2..]].concat();
        let [without, with] = in_turn(
            self.rounds,
            [&|| timed(&mut self.world.ireko(&alone)), &|| timed(&mut self.world.ireko(&words))],
        );
        without.print("from a template, without a network", None);
        with.print("from a template, on one", Some(&without));
    }

    fn deep(&self, template: &Times, pool: &Times) {
        self.world.ok(&["create", "--name", "source", "base", "true"]);
        for layer in 1..DEEP {
            self.world.ok(&["commit", "source", &format!("layer{layer}")]);
        }
        let deep = format!("layer{}", DEEP - 1);
        Times::of(self.rounds, || self.run("template", &deep))
            .print(&format!("from a template, {DEEP} layers"), Some(template));
        Times::of(self.rounds, || self.run("pool", &deep))
            .print(&format!("in a VM that stood by, {DEEP} layers"), Some(pool));
    }

    fn neighbours(&self, template: &Times, pool: &Times) {
        let neighbours = setting("IREKO_BENCH_NEIGHBOURS", 8);
        for number in 0..neighbours {
            let name = format!("idle{number}");
            let words = ["run", "-d", "--start", "template", "--name", &name, "base"];
            self.world.ok(&[&words[..], &["sleep", "99999"]].concat());
        }
        let shims = self.world.processes("shim");
        let kib: u64 = shims.iter().map(|shim| family_pss(*shim)).sum();
        println!(
            "an idle container's QEMU and shim {:>25.1} MiB (Pss, mean of {})",
            kib as f64 / 1024.0 / shims.len() as f64,
            shims.len()
        );
        Times::of(self.rounds, || self.run("template", "base"))
            .print(&format!("from a template, {neighbours} idle neighbours"), Some(template));
        Times::of(self.rounds, || self.run("pool", "base"))
            .print(&format!("in a VM that stood by, {neighbours} idle neighbours"), Some(pool));
    }
}

/// The whole process of a command that says hi.
fn timed(command: &mut Command) -> Duration {
    let began = Instant::now();
    assert_eq!(run(command).ok().trim(), "hi");
    began.elapsed()
}

/// Each has its turn in every round, and each begins as often as the others.
fn in_turn<const N: usize>(rounds: usize, all: [&dyn Fn() -> Duration; N]) -> [Times; N] {
    let mut times = [const { Vec::new() }; N];
    for round in 0..rounds {
        for turn in 0..N {
            let one = (round + turn) % N;
            times[one].push(all[one]());
        }
    }
    times.map(Times::new)
}

struct Times(Vec<Duration>);

impl Times {
    fn of(rounds: usize, mut once: impl FnMut() -> Duration) -> Self {
        Self::new((0..rounds).map(|_| once()).collect())
    }

    fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    fn median(&self) -> f64 {
        self.0[self.0.len() / 2].as_secs_f64()
    }

    fn print(&self, what: &str, beside: Option<&Self>) {
        let slow = self.0[(self.0.len() * 95 / 100).min(self.0.len() - 1)].as_secs_f64();
        let ratio = beside.map(|beside| format!("  {:.2} x", self.median() / beside.median()));
        println!(
            "{what:<45} {:>7.3} s  p95 {slow:.3} s{}",
            self.median(),
            ratio.unwrap_or_default()
        );
    }
}

/// What a process and its children share of the host's memory, in KiB.
fn family_pss(pid: u32) -> u64 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    pss(pid) + children.map(family_pss).sum::<u64>()
}

/// Source: proc_pid_smaps_rollup(5).
fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0)
}

fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
