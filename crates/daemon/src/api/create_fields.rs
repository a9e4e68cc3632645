//! The one table of create options: what each field is when the user asked for nothing, and what
//! becomes of anything else.
//!
//! The values are those that docker 28.2.2, docker-compose 1.29.2 and docker-py send. `null`, `""`,
//! `0`, `false`, `[]` and `{}` mean nothing in every field; the table has what means nothing beside.

use crate::api::error::{ApiError, ApiResult};
use serde_json::{Map, Value};

/// What becomes of a field that says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It is understood, in [`crate::api::create`].
    Taken,
    /// It is so for every Ireko container, or only the client's own note.
    SoAnyway,
    /// It is accepted, and the answer's `Warnings` says this.
    Warned(&'static str),
    /// It is refused: `Ireko does not support <this> yet`.
    Refused(&'static str),
    /// It is refused as a wrong request, in these words.
    Impossible(&'static str),
}

use Effect::{Impossible, Refused, SoAnyway, Taken, Warned};

/// One documented field, values that mean nothing (as JSON), and its effect.
type Field = (&'static str, &'static [&'static str], Effect);

/// The top level, docker's `ContainerConfig`.
const CONFIG: &[Field] = &[
    ("Hostname", &[], Taken),
    ("Domainname", &[], Refused("domain names (Domainname)")),
    ("User", &[], Taken),
    ("AttachStdin", &[], Taken),
    ("AttachStdout", &[], Taken),
    ("AttachStderr", &[], Taken),
    ("ExposedPorts", &[], Taken),
    ("Tty", &[], Taken),
    ("OpenStdin", &[], Taken),
    ("StdinOnce", &[], Taken),
    ("Env", &[], Taken),
    ("Cmd", &[], Taken),
    ("Healthcheck", &[], Taken),
    ("ArgsEscaped", &[], SoAnyway),
    ("Image", &[], Taken),
    ("Volumes", &[], Refused("volumes (Volumes)")),
    ("WorkingDir", &[], Taken),
    ("Entrypoint", &[], Taken),
    ("NetworkDisabled", &[], Taken),
    ("MacAddress", &[], Taken),
    ("OnBuild", &[], Refused("builds (OnBuild)")),
    ("Labels", &[], Taken),
    ("StopSignal", &[], Taken),
    ("StopTimeout", &[], Taken),
    ("Shell", &[], Refused("builds (Shell)")),
    ("HostConfig", &[], Taken),
    ("NetworkingConfig", &[], Taken),
];

/// `HostConfig`.
const HOST_CONFIG: &[Field] = &[
    ("Annotations", &[], Taken),
    ("AutoRemove", &[], Taken),
    ("Binds", &[], Refused("bind mounts and volumes (Binds)")),
    ("BlkioDeviceReadBps", &[], Refused("disk throttling (BlkioDeviceReadBps)")),
    ("BlkioDeviceReadIOps", &[], Refused("disk throttling (BlkioDeviceReadIOps)")),
    ("BlkioDeviceWriteBps", &[], Refused("disk throttling (BlkioDeviceWriteBps)")),
    ("BlkioDeviceWriteIOps", &[], Refused("disk throttling (BlkioDeviceWriteIOps)")),
    ("BlkioWeight", &[], Refused("disk weights (BlkioWeight)")),
    ("BlkioWeightDevice", &[], Refused("disk weights (BlkioWeightDevice)")),
    ("CapAdd", &[], Refused("a choice of capabilities (CapAdd)")),
    ("CapDrop", &[], Refused("a choice of capabilities (CapDrop)")),
    ("Cgroup", &[], Refused("a choice of cgroup (Cgroup)")),
    ("CgroupParent", &[], Refused("a choice of cgroup (CgroupParent)")),
    // Each container has a kernel of its own, and so a cgroup tree.
    ("CgroupnsMode", &["\"private\""], Refused("the host's cgroup namespace (CgroupnsMode)")),
    ("ConsoleSize", &["[0,0]"], Taken),
    ("ContainerIDFile", &[], SoAnyway),
    ("CpuCount", &[], Refused("Windows containers (CpuCount)")),
    ("CpuPercent", &[], Refused("Windows containers (CpuPercent)")),
    ("CpuPeriod", &[], Taken),
    ("CpuQuota", &[], Taken),
    ("CpuRealtimePeriod", &[], Refused("real-time scheduling (CpuRealtimePeriod)")),
    ("CpuRealtimeRuntime", &[], Refused("real-time scheduling (CpuRealtimeRuntime)")),
    ("CpuShares", &[], Refused("CPU weights (CpuShares): use --cpus")),
    ("CpusetCpus", &[], Refused("a choice of CPUs (CpusetCpus): use --cpus")),
    ("CpusetMems", &[], Refused("a choice of memory nodes (CpusetMems)")),
    ("DeviceCgroupRules", &[], Refused("host devices (DeviceCgroupRules)")),
    ("DeviceRequests", &[], Refused("host devices (DeviceRequests)")),
    ("Devices", &[], Refused("host devices (Devices)")),
    ("Dns", &[], Taken),
    ("DnsOptions", &[], Taken),
    ("DnsSearch", &[], Taken),
    ("ExtraHosts", &[], Taken),
    ("GroupAdd", &[], Refused("further groups (GroupAdd)")),
    ("IOMaximumBandwidth", &[], Refused("Windows containers (IOMaximumBandwidth)")),
    ("IOMaximumIOps", &[], Refused("Windows containers (IOMaximumIOps)")),
    ("Init", &[], Taken),
    ("IpcMode", &["\"private\"", "\"none\""], Refused("sharing of namespaces (IpcMode)")),
    (
        "Isolation",
        &["\"default\"", "\"hyperv\""],
        Impossible(
            "every Ireko container is a virtual machine: isolation \"process\" is not possible",
        ),
    ),
    ("KernelMemory", &[], Refused("limits of kernel memory (KernelMemory)")),
    ("KernelMemoryTCP", &[], Refused("limits of kernel memory (KernelMemoryTCP)")),
    ("Links", &[], Refused("links to other containers (Links): use a network of its own")),
    ("LogConfig", &[], Taken),
    ("MaskedPaths", &[], Refused("a choice of masked paths (MaskedPaths)")),
    ("Memory", &[], Taken),
    ("MemoryReservation", &[], Refused("soft memory limits (MemoryReservation)")),
    ("MemorySwap", &[], Taken),
    ("MemorySwappiness", &["-1"], Warned("The guest has no swap: MemorySwappiness has no effect.")),
    ("Mounts", &[], Taken),
    ("NanoCpus", &[], Taken),
    ("NetworkMode", &[], Taken),
    ("OomKillDisable", &[], Refused("a disabled OOM killer (OomKillDisable)")),
    ("OomScoreAdj", &[], Refused("OOM scores (OomScoreAdj)")),
    ("PidMode", &["\"private\""], Refused("sharing of namespaces (PidMode)")),
    ("PidsLimit", &["-1"], Refused("limits of processes (PidsLimit)")),
    ("PortBindings", &[], Taken),
    ("Privileged", &[], Refused("privileged containers (Privileged)")),
    ("PublishAllPorts", &[], Taken),
    ("ReadonlyPaths", &[], Refused("a choice of read-only paths (ReadonlyPaths)")),
    ("ReadonlyRootfs", &[], Taken),
    ("RestartPolicy", &[], Taken),
    ("Runtime", &["\"ireko\""], Refused("other runtimes (Runtime)")),
    ("SecurityOpt", &[], Refused("security options (SecurityOpt)")),
    // Docker's own default, written out by some clients.
    ("ShmSize", &["67108864"], Refused("the size of /dev/shm (ShmSize)")),
    ("StorageOpt", &[], Refused("storage options (StorageOpt)")),
    ("Sysctls", &[], Refused("kernel parameters (Sysctls)")),
    ("Tmpfs", &[], Taken),
    ("UTSMode", &["\"private\""], Refused("sharing of namespaces (UTSMode)")),
    ("Ulimits", &[], Refused("limits of processes (Ulimits)")),
    ("UsernsMode", &[], Refused("user namespaces (UsernsMode)")),
    ("VolumeDriver", &["\"local\""], Refused("volumes (VolumeDriver)")),
    ("VolumesFrom", &[], Refused("volumes (VolumesFrom)")),
];

/// Goes through a create request's body; returns the warnings it gives cause for.
///
/// Errors at the first field that asks for something Ireko does not do. Fields that are not
/// documented are nobody's wish.
pub(crate) fn check(body: &Map<String, Value>) -> ApiResult<Vec<String>> {
    let mut warnings = Vec::new();
    check_fields(body, CONFIG, &mut warnings)?;
    let empty = Map::new();
    let host_config = body.get("HostConfig").and_then(Value::as_object).unwrap_or(&empty);
    check_fields(host_config, HOST_CONFIG, &mut warnings)?;
    Ok(warnings)
}

/// The same for what is a `HostConfig` by itself, or a part of one.
pub(crate) fn check_host_config(body: &Map<String, Value>) -> ApiResult<Vec<String>> {
    let mut warnings = Vec::new();
    check_fields(body, HOST_CONFIG, &mut warnings)?;
    Ok(warnings)
}

fn check_fields(
    object: &Map<String, Value>,
    fields: &[Field],
    warnings: &mut Vec<String>,
) -> ApiResult<()> {
    for (name, nothing, effect) in fields {
        let Some(value) = object.get(*name) else { continue };
        if says_nothing(value, nothing) {
            continue;
        }
        match effect {
            Taken | SoAnyway => {}
            Warned(words) => warnings.push((*words).to_owned()),
            Refused(what) => return Err(ApiError::not_yet(what)),
            Impossible(what) => return Err(ApiError::bad_request(*what)),
        }
    }
    Ok(())
}

fn says_nothing(value: &Value, nothing: &[&str]) -> bool {
    let is_empty = match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    is_empty || nothing.contains(&value.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(body: Value) -> ApiResult<Vec<String>> {
        check(body.as_object().unwrap())
    }

    #[track_caller]
    fn refused(body: Value, words: &str) {
        let error = checked(body).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn what_the_docker_cli_sends_for_a_plain_run_is_accepted() {
        for body in [
            include_str!("../../tests/golden/run-docker-28.json"),
            include_str!("../../tests/golden/run-detached-bridge-docker-28.json"),
        ] {
            let warnings = checked(serde_json::from_str(body).unwrap()).unwrap();
            assert_eq!(warnings, [] as [String; 0]);
        }
    }

    #[test]
    fn every_wish_that_cannot_be_met_is_refused() {
        refused(json!({ "HostConfig": { "Binds": ["/a:/b"] } }), "bind mounts");
        refused(json!({ "HostConfig": { "Isolation": "process" } }), "virtual machine");
        refused(json!({ "Volumes": { "/x": {} } }), "volumes");
    }

    #[test]
    fn no_field_is_in_the_table_twice() {
        for table in [CONFIG, HOST_CONFIG] {
            let mut names: Vec<_> = table.iter().map(|(name, ..)| name).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), table.len());
        }
    }
}
