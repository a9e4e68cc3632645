//! Running the probe's guest under KVM, for no longer than its deadline.
//!
//! ```text
//!   this thread                      CPU thread
//!     ├─ spawn ──────────────────────► make VM, CPU, memory
//!     │ ◄─────────────────── Started ─┤ KVM_RUN …
//!     ├─ 500 ms over: signal ────────► KVM_RUN ends with EINTR
//!     │ ◄───────────────── Ended(how) ┤
//! ```
//! The signal is blocked in the CPU thread except while it is in KVM_RUN, so that it is never lost
//! before the guest is entered and never delivered to anyone: no handler is needed.

#![allow(unsafe_code)]

use super::guest;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::ptr;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

/// How long the guest may count. A CPU needs a few milliseconds; a loaded host stays far below.
const GUEST_DEADLINE: Duration = Duration::from_millis(500);

/// How long making the VM, or stopping it, may take.
const HOST_DEADLINE: Duration = Duration::from_secs(1);

/// More exits than this are not the guest's own.
const MAX_EXITS: usize = 16;

const KICK: libc::c_int = libc::SIGUSR1;

/// What is known about KVM on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Whether guests can be run by it.
    pub works: bool,
    /// Why it is thought so: a sentence for people.
    pub reason: String,
}

enum Report {
    Started,
    Ended(How),
}

enum How {
    Spoke(Vec<u8>, Duration),
    Interrupted,
    Failed(String),
}

/// Runs the guest and judges what it did. Returns within two and a half seconds whatever KVM does.
pub fn prove() -> Proof {
    match run_guest() {
        How::Spoke(words, time) if words == guest::WORDS => Proof {
            works: true,
            reason: format!(
                "KVM ran {} steps of guest kernel code in {} ms",
                guest::STEPS,
                time.as_millis()
            ),
        },
        How::Spoke(..) => fails("KVM runs guest kernel code wrongly".into()),
        How::Interrupted => fails(format!(
            "KVM is there but far too slow: guest kernel code did not finish in {} ms what takes a \
             CPU a few ms{}",
            GUEST_DEADLINE.as_millis(),
            emulation_named()
        )),
        How::Failed(what) => fails(what),
    }
}

fn fails(reason: String) -> Proof {
    Proof { works: false, reason }
}

/// Names the module that is known to run only kernels made for it, where it is loaded.
fn emulation_named() -> &'static str {
    if Path::new("/sys/module/kvm_pvm").exists() {
        " (module kvm_pvm: this host is itself a VM and emulates the guest's kernel)"
    } else {
        ""
    }
}

fn run_guest() -> How {
    let (reports, received) = mpsc::sync_channel(2);
    let spawned =
        thread::Builder::new().name("kvm-probe".into()).spawn(move || cpu_thread(&reports));
    let thread = match spawned {
        Ok(thread) => thread,
        Err(error) => return How::Failed(format!("KVM was not tried: no thread: {error}")),
    };
    let ended = match received.recv_timeout(HOST_DEADLINE) {
        Ok(Report::Started) => received.recv_timeout(GUEST_DEADLINE),
        other => other,
    };
    let ended = match ended {
        Err(RecvTimeoutError::Timeout) => {
            // SAFETY: the handle was neither joined nor dropped, so the thread's id is still its
            // own even where the thread has ended; the thread blocks the signal.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), KICK) };
            received.recv_timeout(HOST_DEADLINE)
        }
        other => other,
    };
    match ended {
        Ok(Report::Ended(how)) => how,
        Ok(Report::Started) => How::Failed("KVM took too long to make a VM".into()),
        // The thread keeps what it holds; a KVM that cannot be stopped has it for good.
        Err(RecvTimeoutError::Timeout) => How::Failed("KVM cannot be stopped".into()),
        Err(RecvTimeoutError::Disconnected) => How::Failed("the KVM probe broke off".into()),
    }
}

fn cpu_thread(reports: &SyncSender<Report>) {
    let ended = match block_kick().and_then(|()| Machine::new()) {
        Ok(mut machine) => {
            let _ = reports.send(Report::Started);
            machine.run()
        }
        Err(error) => How::Failed(error),
    };
    let _ = reports.send(Report::Ended(ended));
}

fn block_kick() -> Result<(), String> {
    // SAFETY: `set` is initialised by sigemptyset before it is read; no old set is asked for.
    let result = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, KICK);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err("KVM was not tried: cannot block a signal".into()) }
}

/// Fields are dropped in this order: the memory goes last, when no CPU can reach it.
struct Machine {
    cpu: VcpuFd,
    _vm: VmFd,
    _memory: Memory,
}

impl Machine {
    fn new() -> Result<Self, String> {
        let failed = |what| move |error| format!("KVM refuses to {what}: {error}");
        let kvm = Kvm::new().map_err(failed("open"))?;
        let vm = kvm.create_vm().map_err(failed("make a VM"))?;
        vm.set_tss_address(0xfffb_d000).map_err(failed("place its task state"))?;
        let memory = Memory::new(&guest::image()).map_err(|error| format!("no memory: {error}"))?;
        let region = kvm_userspace_memory_region {
            memory_size: guest::MEMORY as u64,
            userspace_addr: memory.0 as u64,
            ..Default::default()
        };
        // SAFETY: the region is exactly the mapping, which outlives the VM in the returned value
        // and on every early return (locals drop in reverse order, `vm` is older than `memory` but
        // its CPU does not exist or does not run by then).
        unsafe { vm.set_user_memory_region(region) }.map_err(failed("map its memory"))?;
        let cpu = vm.create_vcpu(0).map_err(failed("make a CPU"))?;
        let features =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("name its features"))?;
        cpu.set_cpuid2(&features).map_err(failed("give the CPU its features"))?;
        let mut special = cpu.get_sregs().map_err(failed("read registers"))?;
        guest::enter_long_mode(&mut special);
        cpu.set_sregs(&special).map_err(failed("enter 64-bit mode"))?;
        let general =
            kvm_regs { rip: guest::ENTRY, rsp: guest::STACK, rflags: 2, ..Default::default() };
        cpu.set_regs(&general).map_err(failed("set registers"))?;
        unblock_all_while_running(&cpu)?;
        Ok(Self { cpu, _vm: vm, _memory: memory })
    }

    fn run(&mut self) -> How {
        let start = Instant::now();
        let mut words = Vec::new();
        for _ in 0..MAX_EXITS {
            match self.cpu.run() {
                Ok(VcpuExit::IoOut(guest::PORT, said)) => words.extend_from_slice(said),
                Ok(VcpuExit::Hlt) => return How::Spoke(words, start.elapsed()),
                Ok(other) => {
                    return How::Failed(format!("KVM cannot run guest kernel code: {other:?}"));
                }
                Err(error) if error.errno() == libc::EINTR => return How::Interrupted,
                Err(error) => {
                    return How::Failed(format!("KVM cannot run guest kernel code: {error}"));
                }
            }
            if words == guest::WORDS {
                return How::Spoke(words, start.elapsed());
            }
        }
        How::Failed("KVM does not run guest kernel code but returns at once".into())
    }
}

/// Tells KVM which signals the thread blocks while in KVM_RUN: none. Source: Linux
/// `Documentation/virt/kvm/api.rst`, 4.27.
fn unblock_all_while_running(cpu: &VcpuFd) -> Result<(), String> {
    #[repr(C)]
    struct SignalMask {
        length: u32,
        set: [u8; 8],
    }
    const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;
    let mask = SignalMask { length: 8, set: [0; 8] };
    // SAFETY: the descriptor is a vCPU's; KVM reads the length and as many bytes after it, all
    // within `mask`, and keeps no pointer.
    match unsafe { libc::ioctl(cpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &mask) } {
        0 => Ok(()),
        _ => Err(format!("KVM refuses to be interruptible: {}", std::io::Error::last_os_error())),
    }
}

/// The guest's memory.
struct Memory(*mut c_void);

impl Memory {
    fn new(image: &[u8]) -> rustix::io::Result<Self> {
        assert!(image.len() <= guest::MEMORY);
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory; the
        // image fits into it and cannot overlap what did not exist before.
        unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let start = mmap_anonymous(ptr::null_mut(), guest::MEMORY, access, MapFlags::PRIVATE)?;
            ptr::copy_nonoverlapping(image.as_ptr(), start.cast(), image.len());
            Ok(Self(start))
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and whoever could reach it is gone.
        let _ = unsafe { munmap(self.0, guest::MEMORY) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_ends_within_its_deadlines_and_says_why() {
        if !Path::new("/dev/kvm").exists() {
            eprintln!("skipped: no /dev/kvm");
            return;
        }
        let start = Instant::now();
        let proof = prove();
        assert!(start.elapsed() < GUEST_DEADLINE + 2 * HOST_DEADLINE + Duration::from_secs(2));
        assert!(proof.reason.starts_with("KVM"), "{}", proof.reason);
        eprintln!("{proof:?} after {:?}", start.elapsed());
    }
}
