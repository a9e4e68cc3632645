//! The utility VM's kernel command line.

use crate::accel::Accel;

/// Returns the command line for a guest without a serial line.
///
/// A panic ends the VM at once (`panic=-1` asks for a reset, which the VM does not survive).
/// Common to both kinds: no UART is probed, self-tests are left out, the CPU's random numbers are
/// trusted since the agent adds the host's. Under TCG the time-stamp counter is the host's, so it
/// is declared reliable at `tsc_khz` (see [`super::host_tsc_khz`]): calibrating it against an
/// emulated timer costs half a second and errs on a loaded host. Only there, where the guest's CPU
/// is a program without speculation, are mitigations and address randomisation switched off.
pub fn command_line(accel: Accel, tsc_khz: Option<u32>) -> String {
    let mut line = String::from(
        "quiet panic=-1 no_timer_check 8250.nr_uarts=0 cryptomgr.notests random.trust_cpu=on",
    );
    if accel == Accel::Tcg {
        line += " tsc=reliable mitigations=off nokaslr init_on_alloc=0";
        if let Some(khz) = tsc_khz {
            line += &format!(" tsc_early_khz={khz}");
        }
    }
    line
}

/// Returns `line` changed to put the kernel's words and the agent's on the first serial line, for
/// a VM with a console log. Costs some seconds under TCG: a UART takes a trap for each byte.
pub fn with_console(line: &str) -> String {
    let kept = line.split(' ').filter(|word| !matches!(*word, "quiet" | "8250.nr_uarts=0"));
    kept.chain(["console=ttyS0"]).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_cpu_keeps_its_mitigations_and_its_own_clock() {
        let line = command_line(Accel::Kvm, Some(2_596_130));
        for word in ["mitigations", "nokaslr", "tsc"] {
            assert!(!line.contains(word), "{line}");
        }
    }

    #[test]
    fn an_emulated_cpu_is_told_its_clock_rate() {
        let line = command_line(Accel::Tcg, Some(2_596_130));
        assert!(line.ends_with("tsc_early_khz=2596130"), "{line}");
        assert!(!command_line(Accel::Tcg, None).contains("tsc_early_khz"));
    }

    #[test]
    fn a_console_brings_back_the_uart_and_the_words() {
        let line = with_console(&command_line(Accel::Tcg, None));
        assert!(line.ends_with("console=ttyS0"), "{line}");
        assert!(!line.contains("quiet") && !line.contains("nr_uarts"), "{line}");
    }
}
