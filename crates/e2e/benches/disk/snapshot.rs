//! Freezing a disk under a new child, and making a child: of an empty disk, and of one just written to.
//!
//! Both are 1 TiB virtual. What was written is flushed before: a guest's file systems do that when they are told to freeze.

use crate::rounds::{Samples, time, turns};
use crate::setting::{MIB, Setting, TIB, remove};
use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, FreezePlan};
use std::slice;

/// What was written, and how far one MiB of it is from the next.
const SIDES: [(&str, Option<Spread>); 3] = [
    ("empty", None),
    ("written in one piece", Some(Spread::Together)),
    ("written all over", Some(Spread::AllOver)),
];

#[derive(Clone, Copy)]
enum Spread {
    Together,
    AllOver,
}

pub fn run(setting: &Setting) {
    let mib = setting.mib_or(1024);
    println!("snapshot: a disk of 1 TiB, empty and with {mib} MiB just written and flushed");
    let mut samples: [[Samples; SIDES.len()]; 2] = Default::default();
    for round in 0..setting.rounds {
        for side in turns(round, SIDES.len()) {
            setting.pause();
            let stride = SIDES[side].1.map(|spread| match spread {
                Spread::Together => MIB,
                Spread::AllOver => TIB / mib / MIB * MIB,
            });
            let [freeze, child] = snapshot(setting, mib, stride);
            samples[0][side].push(freeze);
            samples[1][side].push(child);
        }
    }
    let steps = ["freeze under a new child", "one more child"];
    for (what, samples) in steps.into_iter().zip(&samples) {
        let empty = samples[0].median();
        for ((side, _), samples) in SIDES.into_iter().zip(samples) {
            let remark = format!("{:.2} x the empty one's time", samples.median() / empty);
            samples.print(&format!("{what}, {side}"), 1e3, "ms", &remark);
        }
    }
}

/// Seconds for the freeze, and for one more child of what was frozen.
fn snapshot(setting: &Setting, mib: u64, stride: Option<u64>) -> [f64; 2] {
    let [leaf, frozen, child] =
        ["leaf.vhdx", "frozen.vhdx", "child.vhdx"].map(|name| setting.path(name));
    remove(&[&leaf, &frozen, &child]);
    vhdx::create(&leaf, &CreateOptions::new(TIB)).expect("a new disk");
    let mut disk = Chain::open(slice::from_ref(&leaf), Access::ReadWrite).expect("the disk");
    if let Some(stride) = stride {
        let bytes = vec![0xA5; MIB as usize];
        (0..mib).for_each(|at| disk.write_at(at * stride, &bytes).expect("write"));
    }
    disk.flush().expect("flush");
    // Files that others left unwritten would be waited for too.
    rustix::fs::sync();
    let plan = FreezePlan {
        frozen: frozen.clone(),
        frozen_parent: None,
        next_parent: r".\frozen.vhdx".into(),
    };
    let froze = time(|| disk.freeze(&plan).expect("freeze"));
    let made = time(|| {
        vhdx::create_child(&child, &frozen, r".\frozen.vhdx", &ChildOptions::default())
            .expect("a child");
    });
    disk.close().expect("close");
    [froze, made]
}
