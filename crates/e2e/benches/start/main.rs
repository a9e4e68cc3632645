//! How long a container takes from the command to its end: `ireko run --rm base echo hi`, cold, from a
//! template and in a VM that stood by, alone, on a deep chain and among neighbours; and what an idle one
//! takes of the host's memory.
//!
//! ```text
//!   cargo bench -p ireko-e2e --bench start        (or `make bench`)
//! ```
//! Prints medians, the slowest twentieth and ratios of one run; asserts nothing. `IREKO_BENCH_ROUNDS` sets how
//! often each is measured (30), `IREKO_BENCH_NEIGHBOURS` among how many (8).

use ireko_e2e::World;
use ireko_e2e::slots::Vms;
use std::fs;
use std::time::{Duration, Instant};

/// Layers of the deep chain.
const DEEP: usize = 64;

fn main() {
    let rounds = setting("IREKO_BENCH_ROUNDS", 30);
    let neighbours = setting("IREKO_BENCH_NEIGHBOURS", 8);
    let world = World::new("start", Vms::Two);
    ireko_e2e::run(world.ireko(&["version"]).env("IREKO_POOL", "1")).ok();
    let run = |start: &str, image: &str| {
        let began = Instant::now();
        assert_eq!(world.ok(&["run", "--rm", "--start", start, image, "echo", "hi"]), "hi");
        began.elapsed()
    };
    run("template", "base");
    let cold = Times::of(rounds.div_ceil(3), || run("cold", "base"));
    let template = Times::of(rounds, || run("template", "base"));
    cold.print("cold", None);
    template.print("from a template", Some(&cold));
    let in_pool = |image: &str| {
        // Ready before the clock runs, as it is for whoever takes a second between two commands.
        world.ok(&["warm"]);
        run("pool", image)
    };
    let pool = Times::of(rounds, || in_pool("base"));
    pool.print("in a VM that stood by", Some(&template));

    world.ok(&["create", "--name", "source", "base", "true"]);
    for layer in 1..DEEP {
        world.ok(&["commit", "source", &format!("layer{layer}")]);
    }
    let deep = format!("layer{}", DEEP - 1);
    Times::of(rounds, || run("template", &deep))
        .print(&format!("from a template, {DEEP} layers"), Some(&template));
    Times::of(rounds, || in_pool(&deep))
        .print(&format!("in a VM that stood by, {DEEP} layers"), Some(&pool));

    for number in 0..neighbours {
        let name = format!("idle{number}");
        let words = ["run", "-d", "--start", "template", "--name", &name, "base", "sleep", "99999"];
        world.ok(&words);
    }
    let shims = world.processes("shim");
    let kib: u64 = shims.iter().map(|shim| family_pss(*shim)).sum();
    println!(
        "an idle container's QEMU and shim {:>20.1} MiB (Pss, mean of {})",
        kib as f64 / 1024.0 / shims.len() as f64,
        shims.len()
    );
    Times::of(rounds, || run("template", "base"))
        .print(&format!("from a template, {neighbours} idle neighbours"), Some(&template));
    Times::of(rounds, || in_pool("base"))
        .print(&format!("in a VM that stood by, {neighbours} idle neighbours"), Some(&pool));
}

struct Times(Vec<Duration>);

impl Times {
    fn of(rounds: usize, mut once: impl FnMut() -> Duration) -> Self {
        let mut times: Vec<_> = (0..rounds).map(|_| once()).collect();
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
            "{what:<40} {:>7.3} s  p95 {slow:.3} s{}",
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
