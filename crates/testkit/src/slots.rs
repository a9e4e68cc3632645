//! At most two VMs at a time, across all test processes of the machine; or three small ones of one test.
//!
//! A slot is a locked file: the kernel gives it back when its holder dies.

use std::fs::File;
use std::sync::mpsc;
use std::thread;

/// How many VMs a test runs at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vms {
    /// No VM at all: waits for nobody.
    None,
    /// One after the other.
    One,
    /// Two at once.
    Two,
    /// Three at once, with little memory: for what two cannot show.
    Three,
}

/// The right to run VMs, until it is dropped.
pub struct Slots {
    _held: Vec<File>,
}

/// Waits until that many VMs may run.
///
/// Who needs two or three takes the first and then the second; who needs one takes whichever is free first
/// and waits for no more, so nobody waits in a circle.
pub fn take(vms: Vms) -> Slots {
    let held = match vms {
        Vms::None => Vec::new(),
        Vms::Two | Vms::Three => vec![lock(0), lock(1)],
        Vms::One => {
            let (won, winner) = mpsc::channel();
            for slot in [0, 1] {
                let won = won.clone();
                // The later of the two finds nobody listening, and its lock goes with the file.
                thread::spawn(move || won.send(lock(slot)));
            }
            vec![winner.recv().expect("a slot")]
        }
    };
    Slots { _held: held }
}

fn lock(slot: usize) -> File {
    let path = std::env::temp_dir().join(format!("ireko-test-vm-{slot}"));
    let file = File::options().create(true).append(true).open(&path).expect("open a slot's file");
    file.lock().expect("lock a slot");
    file
}
