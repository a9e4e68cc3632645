//! One VM, from plan to exit.
//!
//! A shim owns the disk chain, its block export, QEMU, the guest agent's channel, the container's
//! standard streams, its log and its exit record. It is started by the engine with a
//! [`ireko_protocol::plan::VmPlan`] in which everything is resolved, outlives the daemon, and never
//! looks into the store.
//!
//! ```text
//!   engine ═unix socket═► control ─┬─► streams ◄─┐
//!                                  ├─► commit    ├─ guest ═virtio-serial═► agent
//!                                  └─► run ──────┘            │
//!                                       └─► vm (QEMU) ═NBD═► live_disk ─► disk::Chain
//! ```
//!
//! Reading order: [`run`] tells what every VM's story has in common, `utility` that of a VM with our
//! kernel and agent, `warm` and `spare` why it need not boot, `machine` that of a whole operating system; `vm` is QEMU between them. `guest`
//! and `link` are the channel to the agent, `console` a machine's serial line, `machine_agents` whom its system
//! has to be asked, `qemu_ga` the second of them, `machine_freeze` how either holds it still, `suspend` a machine's way to its disk and
//! back, `sysprep` a Windows' own generalizing, `streams` the fan-out
//! of output, `files` work with the container's files, `control` the socket the engine speaks to, `live_disk` the chain while the VM uses it,
//! `commit` the freeze under a running guest, `group` what QEMU may take of the host.
//! Threads, not tasks: QEMU must be forked by the main thread, because the signal that kills it
//! with us follows the forking *thread*.
#![forbid(unsafe_code)]

mod clock;
mod commit;
mod console;
mod control;
mod failure;
mod files;
mod group;
mod guest;
mod link;
mod live_disk;
mod log;
mod machine;
mod machine_agents;
mod machine_exec;
mod machine_freeze;
mod nics;
mod phase;
mod qemu_ga;
mod records;
mod run;
mod spare;
mod streams;
mod suspend;
mod sysprep;
mod utility;
mod vm;
mod warm;

pub use run::main;
