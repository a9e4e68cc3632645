//! `ireko info`.

use super::Context;
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use crate::{output, reach, words};
use ireko_protocol::host::{HostInfo, LimitFacts};
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write;

/// Display system-wide information
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print JSON: Docker's fields, and Ireko's own under "Ireko"
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Counts {
    #[serde(default)]
    containers: u64,
    #[serde(default)]
    containers_running: u64,
    #[serde(default)]
    containers_paused: u64,
    #[serde(default)]
    containers_stopped: u64,
    #[serde(default)]
    images: u64,
    #[serde(default)]
    server_version: String,
    #[serde(default)]
    operating_system: String,
    #[serde(default)]
    kernel_version: String,
    #[serde(default)]
    architecture: String,
    #[serde(default, rename = "NCPU")]
    cpus: u64,
    #[serde(default)]
    mem_total: u64,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// Prints what the daemon knows of itself and its machine; its warnings go to standard error.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let mut docker: Value = client.get(&Target::docker(["info"])).await?;
    let ireko: Value = client.get(&Target::ireko(["info"])).await?;
    if args.json {
        if let Some(docker) = docker.as_object_mut() {
            docker.insert("Ireko".into(), ireko);
        }
        output::json(&docker)?;
        return Ok(Exit::SUCCESS);
    }
    let counts: Counts = crate::client::decode(docker.to_string().as_bytes())?;
    let info: HostInfo = crate::client::decode(ireko.to_string().as_bytes())?;
    output::print(text(&counts, &info))?;
    for warning in counts.warnings.unwrap_or_default() {
        output::note(format_args!("WARNING: {warning}"));
    }
    Ok(Exit::SUCCESS)
}

fn text(counts: &Counts, info: &HostInfo) -> String {
    let host = &info.host;
    let qemu = match (&host.qemu.version, &host.qemu.path) {
        (Some(version), Some(path)) => format!("{version} ({})", path.display()),
        _ => told(&host.qemu.error),
    };
    let accel = match &host.accel.verdict {
        Some(verdict) => verdict.clone(),
        None => "none".into(),
    };
    let lines = [
        ("Containers", counts.containers.to_string()),
        (" Running", counts.containers_running.to_string()),
        (" Paused", counts.containers_paused.to_string()),
        (" Stopped", counts.containers_stopped.to_string()),
        ("Images", counts.images.to_string()),
        ("Version", counts.server_version.clone()),
        ("Root", info.root.display().to_string()),
        ("Cache", info.cache.display().to_string()),
        ("Sockets", info.runtime.display().to_string()),
        (
            "Acceleration",
            format!("{accel} (--accel {}): {}", reach::word(host.accel.choice), host.accel.reason),
        ),
        ("QEMU", qemu),
        ("Host's limits of VMs", limits(&info.limits)),
        ("Guest kernel", host.kernel.version.clone().unwrap_or(told(&host.kernel.error))),
        ("Base image", if host.base.present { "present".into() } else { told(&host.base.error) }),
        ("Operating system", counts.operating_system.clone()),
        ("Host kernel", counts.kernel_version.clone()),
        ("Architecture", counts.architecture.clone()),
        ("CPUs", counts.cpus.to_string()),
        ("Total memory", words::binary_size(counts.mem_total)),
    ];
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name}: {value}");
        text
    })
}

fn limits(facts: &LimitFacts) -> String {
    let Some(group) = &facts.group else { return told(&facts.reason) };
    let controllers = match facts.controllers.join(" ") {
        none if none.is_empty() => "none".to_owned(),
        controllers => controllers,
    };
    match &facts.reason {
        Some(reason) => format!("{controllers} ({}, {reason})", group.display()),
        None => format!("{controllers} ({})", group.display()),
    }
}

fn told(reason: &Option<String>) -> String {
    format!("none: {}", reason.as_deref().unwrap_or("the daemon gives no reason"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_limits_are_told_with_what_they_lack() {
        let none = LimitFacts { reason: Some("no slice".into()), ..LimitFacts::default() };
        assert_eq!(limits(&none), "none: no slice");
        let some = LimitFacts {
            group: Some("/g".into()),
            controllers: vec!["memory".into(), "pids".into()],
            reason: Some("without the controllers cpu in it".into()),
        };
        assert_eq!(limits(&some), "memory pids (/g, without the controllers cpu in it)");
        assert_eq!(
            limits(&LimitFacts { controllers: Vec::new(), reason: None, ..some }),
            "none (/g)"
        );
    }
}
