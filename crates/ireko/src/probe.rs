//! `ireko probe`: what this machine offers, as JSON on standard output.
//!
//! A process of its own, so that neither the daemon nor the commands need to know QEMU.

use ireko_protocol::host::{AccelFacts, BaseFacts, HostFacts, KernelFacts, QemuFacts};
use ireko_protocol::plan::AccelChoice;
use ireko_setup::PartStatus;
use ireko_vm::{Accel, Qemu, accel};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Prints the facts; what is missing is one of them and no failure.
pub fn main(cache: &Path, choice: AccelChoice) -> ExitCode {
    let written = serde_json::to_string(&facts(cache, choice))
        .map_err(std::io::Error::other)
        .and_then(|json| writeln!(std::io::stdout(), "{json}"));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ireko probe: write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn facts(cache: &Path, choice: AccelChoice) -> HostFacts {
    let parts = ireko_setup::status(cache);
    let base = not_present(&parts.base);
    HostFacts {
        qemu: qemu(),
        accel: acceleration(cache, choice),
        kernel: match parts.kernel {
            PartStatus::Present { version } => KernelFacts { version: Some(version), error: None },
            status => KernelFacts { version: None, error: not_present(&status) },
        },
        base: BaseFacts { present: base.is_none(), error: base },
    }
}

fn not_present(status: &PartStatus) -> Option<String> {
    match status {
        PartStatus::Present { .. } => None,
        status => Some(status.to_string()),
    }
}

fn qemu() -> QemuFacts {
    let none = |error: ireko_vm::Error| QemuFacts {
        found: false,
        version: None,
        path: None,
        error: Some(told(&error)),
    };
    let qemu = match Qemu::find() {
        Ok(qemu) => qemu,
        Err(error) => return none(error),
    };
    match qemu.version() {
        Ok(version) => QemuFacts {
            found: true,
            version: Some(version.to_string()),
            path: Some(qemu.program().to_owned()),
            error: None,
        },
        Err(error) => none(error),
    }
}

fn acceleration(cache: &Path, choice: AccelChoice) -> AccelFacts {
    let wanted = match choice {
        AccelChoice::Auto => accel::Choice::Auto,
        AccelChoice::Kvm => accel::Choice::Kvm,
        AccelChoice::Tcg => accel::Choice::Tcg,
    };
    match accel::verdict(cache, wanted) {
        Ok(verdict) => {
            let word = match verdict.accel {
                Accel::Kvm => "kvm",
                Accel::Tcg => "tcg",
            };
            AccelFacts { choice, verdict: Some(word.into()), reason: verdict.reason }
        }
        Err(error) => AccelFacts { choice, verdict: None, reason: told(&error) },
    }
}

/// The whole chain on one line.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_cache_is_a_fact_and_no_failure() {
        let cache = tempfile::tempdir().unwrap();
        let facts = facts(cache.path(), AccelChoice::Tcg);
        assert_eq!(facts.accel.verdict.as_deref(), Some("tcg"));
        assert_eq!(facts.kernel.error.as_deref(), Some("missing"));
        assert_eq!(facts.base, BaseFacts { present: false, error: Some("missing".into()) });
    }
}
