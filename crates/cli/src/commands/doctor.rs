//! `ireko doctor`: what this machine has, and what cures what it lacks.
//!
//! Nothing is changed and no daemon is started. Where one runs it is asked, because its
//! environment counts; otherwise the probe it would run is run from here.

use super::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::reach::{self, Reach};
use crate::target::Target;
use crate::{output, terminal, words};
use ireko_protocol::host::{HostFacts, HostInfo};
use rustix::fs::{Access, access, statfs};
use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// The probe tries KVM under a deadline of its own.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

/// Below this a run may fill the disk at any moment.
const LITTLE_SPACE: u64 = 1 << 30;

/// Tell what this machine has, and what cures what it lacks
#[derive(clap::Args, Clone, Debug)]
pub struct Args {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Poor,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    cure: Option<String>,
}

impl Check {
    fn new(what: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { what, verdict, found: found.into(), cure: None }
    }

    fn cured_by(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }
}

/// Prints every check; the status is 1 where something keeps containers from running.
pub async fn execute(context: &Context, _: &Args) -> Result<Exit> {
    let reach = &context.reach;
    let (socket, running) = socket(reach).await;
    let mut checks = match facts(reach, running).await {
        Ok(facts) => of_host(&facts),
        Err(error) => vec![Check::new("machine", Verdict::Bad, causes(&error))],
    };
    checks.push(of_root(&reach.places.root));
    checks.push(socket);
    if let Ok(socket) = reach.socket() {
        let context =
            format!("docker context create ireko --docker host=unix://{}", socket.display());
        checks.push(Check::new("docker", Verdict::Good, context));
    }
    output::print(text(&checks, terminal::stdout_has_colour()))?;
    match checks.iter().any(|check| check.verdict == Verdict::Bad) {
        true => Ok(Exit::FAILURE),
        false => Ok(Exit::SUCCESS),
    }
}

fn text(checks: &[Check], colour: bool) -> String {
    checks.iter().fold(String::new(), |mut text, check| {
        let (word, code) = match check.verdict {
            Verdict::Good => ("ok", 32),
            Verdict::Poor => ("poor", 33),
            Verdict::Bad => ("BAD", 31),
        };
        let (begin, end) = match colour {
            true => (format!("\x1b[{code}m"), "\x1b[0m"),
            false => (String::new(), ""),
        };
        let _ = writeln!(text, "{begin}{word:<6}{end}{:<14}{}", check.what, check.found);
        if let Some(cure) = &check.cure {
            let _ = writeln!(text, "{:20}cure: {cure}", "");
        }
        text
    })
}

async fn facts(reach: &Reach, running: bool) -> Result<HostFacts> {
    if running && let Some(client) = reach.running().await? {
        let info: HostInfo = client.get(&Target::ireko(["info"])).await?;
        return Ok(info.host);
    }
    let failed = |error| Error::local("probe this machine").because(error);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("probe").arg("--root").arg(&reach.places.root);
    command.arg("--cache").arg(&reach.places.cache);
    command.arg("--accel").arg(reach::word(reach.accel.unwrap_or_default()));
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = tokio::time::timeout(PROBE_PATIENCE, command.output()).await;
    let output = output
        .map_err(|_| Error::local("probe this machine").because("no answer in time"))?
        .map_err(failed)?;
    match output.status.success() {
        true => crate::client::decode(&output.stdout),
        false => Err(Error::local("probe this machine").because(output.status.to_string())),
    }
}

fn of_host(facts: &HostFacts) -> Vec<Check> {
    let told = |reason: &Option<String>| reason.clone().unwrap_or_else(|| "not there".into());
    let HostFacts { qemu, accel, kernel, base } = facts;
    let qemu = match (&qemu.version, &qemu.path) {
        (Some(version), Some(path)) if qemu.found => {
            Check::new("QEMU", Verdict::Good, format!("{version} ({})", path.display()))
        }
        _ => Check::new("QEMU", Verdict::Bad, told(&qemu.error))
            .cured_by("apt-get install --no-install-recommends qemu-system-x86"),
    };
    let accel = match accel.verdict.as_deref() {
        Some("kvm") => Check::new("acceleration", Verdict::Good, format!("kvm: {}", accel.reason)),
        Some(word) => {
            let found = format!("{word}: {} (containers run, but slowly)", accel.reason);
            let check = Check::new("acceleration", Verdict::Poor, found);
            match accel.reason.contains("permission") {
                true => check.cured_by("sudo usermod -aG kvm \"$USER\", then log in again"),
                false => check,
            }
        }
        None => Check::new("acceleration", Verdict::Bad, accel.reason.clone())
            .cured_by("leave out --accel, or use --accel tcg"),
    };
    let kernel = match &kernel.version {
        Some(version) => Check::new("guest kernel", Verdict::Good, version.clone()),
        None => {
            Check::new("guest kernel", Verdict::Bad, told(&kernel.error)).cured_by("ireko setup")
        }
    };
    let base = match base.present {
        true => Check::new("base image", Verdict::Good, "present"),
        false => Check::new("base image", Verdict::Bad, told(&base.error)).cured_by("ireko setup"),
    };
    vec![qemu, accel, kernel, base]
}

/// Looks at the folder the root is in, or will be made in.
fn of_root(root: &Path) -> Check {
    let what = "root";
    let bad = |found: String| {
        Check::new(what, Verdict::Bad, found).cured_by("choose another folder with --root DIR")
    };
    let Some(there) = root.ancestors().find(|folder| folder.exists()) else {
        return bad(format!("{} cannot be looked at", root.display()));
    };
    let status = match statfs(there) {
        Ok(status) => status,
        Err(error) => return bad(format!("{}: {error}", there.display())),
    };
    if let Err(error) = access(there, Access::WRITE_OK) {
        return bad(format!("{} cannot be written: {error}", there.display()));
    }
    // Sparse files, locks and renames that survive a power cut are needed.
    let unfit = match status.f_type as u64 & 0xffff_ffff {
        0x6969 => Some("NFS"),
        0x0102_1997 => Some("9p"),
        0x4d44 => Some("FAT"),
        0x2011_bab0 => Some("exFAT"),
        0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        _ => None,
    };
    if let Some(unfit) = unfit {
        return bad(format!("{} lies on {unfit}, which cannot hold a root", root.display()));
    }
    if status.f_blocks == 0 {
        return bad(format!("{} lies on a file system without storage", root.display()));
    }
    let free = status.f_bavail.saturating_mul(u64::try_from(status.f_bsize).unwrap_or(0));
    let found = format!("{}, {} free", root.display(), words::size(free));
    if free < LITTLE_SPACE {
        return Check::new(what, Verdict::Poor, found)
            .cured_by("free some space, or choose another folder with --root DIR");
    }
    match status.f_type as u64 {
        0x0102_1994 => Check::new(what, Verdict::Poor, format!("{found}, in memory only (tmpfs)"))
            .cured_by("choose another folder with --root DIR to keep images over a reboot"),
        _ => Check::new(what, Verdict::Good, found),
    }
}

/// The socket's state, and whether a daemon answers there.
async fn socket(reach: &Reach) -> (Check, bool) {
    let what = "daemon";
    let running = async {
        match reach.running().await? {
            Some(client) => client.ping().await.map(|()| true),
            None => Ok(false),
        }
    };
    match running.await {
        Ok(true) => (Check::new(what, Verdict::Good, "running"), true),
        Ok(false) => {
            (Check::new(what, Verdict::Good, "not running; the first command starts it"), false)
        }
        Err(error) => {
            let check = Check::new(what, Verdict::Bad, causes(&error));
            let check = match error.kind() {
                ErrorKind::Usage => check.cured_by("choose a shorter folder with --root DIR"),
                _ => check.cured_by("ireko daemon stop"),
            };
            (check, false)
        }
    }
}

fn causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_protocol::host::{AccelFacts, BaseFacts, KernelFacts, QemuFacts};
    use ireko_protocol::plan::AccelChoice;

    fn bare_machine() -> HostFacts {
        HostFacts {
            qemu: QemuFacts {
                found: false,
                version: None,
                path: None,
                error: Some("qemu-system-x86_64 is not installed".into()),
            },
            accel: AccelFacts {
                choice: AccelChoice::Auto,
                verdict: Some("tcg".into()),
                reason: "this host has no /dev/kvm".into(),
            },
            kernel: KernelFacts { version: None, error: Some("missing".into()) },
            base: BaseFacts { present: false, error: Some("missing".into()) },
        }
    }

    #[test]
    fn each_lack_comes_with_its_cure() {
        assert_eq!(
            text(&of_host(&bare_machine()), false),
            "\
BAD   QEMU          qemu-system-x86_64 is not installed
                    cure: apt-get install --no-install-recommends qemu-system-x86
poor  acceleration  tcg: this host has no /dev/kvm (containers run, but slowly)
BAD   guest kernel  missing
                    cure: ireko setup
BAD   base image    missing
                    cure: ireko setup
"
        );
    }

    #[test]
    fn a_root_on_a_pseudo_file_system_is_bad() {
        assert_eq!(of_root(Path::new("/proc/ireko")).verdict, Verdict::Bad);
    }
}
