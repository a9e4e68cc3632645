//! The one host executable: picks the personality.
//!
//! ```text
//!   ireko …        a command: HTTP to the daemon           ireko_cli
//!   ireko daemon   the engine behind HTTP                  ireko_daemon
//!   ireko shim     one VM                     (hidden)     ireko_shim, with the agent's bytes
//!   ireko confine  another program, confined  (hidden)     ireko_confine
//!   ireko switch   one virtual network        (hidden)     ireko_network
//!   ireko probe    what this machine offers   (hidden)     ireko_vm, ireko_setup
//!   ireko template saved VMs in the cache                  ireko_vm
//!   ireko setup    fills the cache                         ireko_setup
//!   ireko agent    writes the guest agent out
//! ```
//!
//! The shim forks QEMU on the thread this starts on, so no personality is moved to another.
#![forbid(unsafe_code)]

mod probe;
mod setup;
mod template;

use ireko_cli::{DaemonOptions, Personality};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// The guest agent: a static executable, built by `build.rs`.
static AGENT: &[u8] = include_bytes!(env!("IREKO_AGENT_FILE"));

fn main() -> ExitCode {
    match ireko_cli::parse(std::env::args_os()) {
        Ok(Personality::Client(invocation)) => invocation.run(),
        Ok(Personality::Daemon(options)) => daemon(options),
        Ok(Personality::Shim { plan, .. }) => ireko_shim::main(&plan, AGENT),
        Ok(Personality::Confine { plan }) => ireko_confine::main(&plan),
        Ok(Personality::Switch { plan }) => ireko_network::main(&plan),
        Ok(Personality::Probe { cache, accel }) => probe::main(&cache, accel),
        Ok(Personality::Template { cache, verb }) => template::main(&cache, &verb),
        Ok(Personality::Agent) => write_agent(),
        Ok(Personality::Setup { cache, refresh }) => setup::main(&cache, refresh),
        Err(status) => status,
    }
}

/// Nobody wants it on a terminal.
fn write_agent() -> ExitCode {
    let mut output = std::io::stdout();
    if output.is_terminal() {
        eprintln!("ireko: the agent is a program: write it to a file, or see ireko agent --help");
        return ExitCode::FAILURE;
    }
    match output.write_all(AGENT).and_then(|()| output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ireko: cannot write the agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn daemon(options: DaemonOptions) -> ExitCode {
    let DaemonOptions { places, host, accel, pool, group, background } = options;
    let hosts = host.iter().map(|path| format!("unix://{}", path.display())).collect();
    ireko_daemon::main(ireko_daemon::Options { places, hosts, accel, pool, group, background })
}

#[cfg(test)]
mod tests {
    use super::AGENT;

    /// A program header asking for a dynamic loader, which no initramfs of ours has.
    const PT_INTERP: u32 = 3;

    #[test]
    fn the_agent_is_a_static_executable() {
        assert_eq!(&AGENT[..5], b"\x7fELF\x02", "a 64-bit ELF file");
        let at = |offset: usize, length: usize| {
            AGENT[offset..offset + length]
                .iter()
                .rev()
                .fold(0, |n, byte| n << 8 | usize::from(*byte))
        };
        let (table, size, count) = (at(32, 8), at(54, 2), at(56, 2));
        assert!(count > 0);
        for header in 0..count {
            assert_ne!(at(table + header * size, 4) as u32, PT_INTERP);
        }
    }

    #[test]
    fn the_agent_is_small() {
        assert!(AGENT.len() < 4 << 20, "{} bytes", AGENT.len());
    }
}
