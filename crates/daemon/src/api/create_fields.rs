//! The one table of create options: what each field is when the user asked for nothing, and what
//! becomes of anything else.
//!
//! The values are those that docker 28.2.2, docker-compose 1.29.2 and docker-py send. `null`, `""`,
//! `0`, `false`, `[]` and `{}` mean nothing in every field; the table has what means nothing beside.
//! What is accepted of `HostConfig` and cannot be shown from what was understood is noted, so that it can be
//! shown again as it was said.

use crate::api::error::{ApiError, ApiResult};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What becomes of a field that says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It is understood, and shown from what was understood.
    Taken,
    /// It is understood, and shown as it was said.
    Shown,
    /// It is so for every Ireko container, or only the client's own note.
    SoAnyway,
    /// It is accepted, and the answer's `Warnings` says this.
    Warned(&'static str),
    /// Some values, as JSON, are accepted with this warning; any other is refused in these words.
    Partly(&'static [&'static str], &'static str, &'static str),
    /// It is refused: `Ireko does not support <this> yet`.
    Refused(&'static str),
    /// It is refused as a wrong request, in these words.
    Impossible(&'static str),
}

use Effect::{Impossible, Partly, Refused, Shown, SoAnyway, Taken, Warned};

/// One documented field, values that mean nothing (as JSON), and its effect.
type Field = (&'static str, &'static [&'static str], Effect);

/// The top level, docker's `ContainerConfig`.
const CONFIG: &[Field] = &[
    ("Hostname", &[], Taken),
    ("Domainname", &[], Taken),
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

/// The mode that is the host's.
const HOST: &[&str] = &["\"host\""];

/// `HostConfig`.
const HOST_CONFIG: &[Field] = &[
    ("Annotations", &[], Shown),
    ("AutoRemove", &[], Taken),
    ("Binds", &[], Refused("bind mounts and volumes (Binds)")),
    ("BlkioDeviceReadBps", &[], Refused("disk throttling (BlkioDeviceReadBps)")),
    ("BlkioDeviceReadIOps", &[], Refused("disk throttling (BlkioDeviceReadIOps)")),
    ("BlkioDeviceWriteBps", &[], Refused("disk throttling (BlkioDeviceWriteBps)")),
    ("BlkioDeviceWriteIOps", &[], Refused("disk throttling (BlkioDeviceWriteIOps)")),
    (
        "BlkioWeight",
        &[],
        Warned("A virtual machine's disks have no weight: BlkioWeight has no effect."),
    ),
    (
        "BlkioWeightDevice",
        &[],
        Warned("A virtual machine's disks have no weight: BlkioWeightDevice has no effect."),
    ),
    ("CapAdd", &[], Shown),
    ("CapDrop", &[], Shown),
    ("Cgroup", &[], Refused("a choice of cgroup (Cgroup)")),
    (
        "CgroupParent",
        &[],
        Warned(
            "Each container has a kernel of its own, and so a cgroup tree: CgroupParent has no effect.",
        ),
    ),
    // Each container has a kernel of its own, and so a cgroup tree.
    (
        "CgroupnsMode",
        &["\"private\""],
        Partly(
            HOST,
            "A container's host is its own virtual machine: CgroupnsMode host is as private.",
            "the host's cgroup namespace (CgroupnsMode)",
        ),
    ),
    ("ConsoleSize", &["[0,0]"], Taken),
    ("ContainerIDFile", &[], SoAnyway),
    ("CpuCount", &[], Refused("Windows containers (CpuCount)")),
    ("CpuPercent", &[], Refused("Windows containers (CpuPercent)")),
    ("CpuPeriod", &[], Shown),
    ("CpuQuota", &[], Shown),
    ("CpuRealtimePeriod", &[], Refused("real-time scheduling (CpuRealtimePeriod)")),
    ("CpuRealtimeRuntime", &[], Refused("real-time scheduling (CpuRealtimeRuntime)")),
    (
        "CpuShares",
        &[],
        Warned("A virtual machine's CPUs are its own: CpuShares has no effect; --cpus has."),
    ),
    (
        "CpusetCpus",
        &[],
        Warned("A virtual machine's CPUs are its own: CpusetCpus has no effect; --cpus has."),
    ),
    ("CpusetMems", &[], Warned("A virtual machine has one memory node: CpusetMems has no effect.")),
    (
        "DeviceCgroupRules",
        &[],
        Warned(
            "A virtual machine has none of the host's devices: DeviceCgroupRules has no effect.",
        ),
    ),
    ("DeviceRequests", &[], Refused("host devices (DeviceRequests)")),
    ("Devices", &[], Refused("host devices (Devices)")),
    ("Dns", &[], Taken),
    ("DnsOptions", &[], Taken),
    ("DnsSearch", &[], Taken),
    ("ExtraHosts", &[], Taken),
    ("GroupAdd", &[], Shown),
    ("IOMaximumBandwidth", &[], Refused("Windows containers (IOMaximumBandwidth)")),
    ("IOMaximumIOps", &[], Refused("Windows containers (IOMaximumIOps)")),
    ("Init", &[], Taken),
    // Whatever is shareable, nobody shares it.
    (
        "IpcMode",
        &["\"private\"", "\"none\"", "\"shareable\""],
        Partly(
            HOST,
            "A container's host is its own virtual machine: IpcMode host is as private.",
            "sharing of namespaces (IpcMode)",
        ),
    ),
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
    (
        "MemoryReservation",
        &[],
        Warned("A virtual machine's memory is its own: MemoryReservation has no effect."),
    ),
    ("MemorySwap", &["-1"], Shown),
    ("MemorySwappiness", &["-1"], Warned("The guest has no swap: MemorySwappiness has no effect.")),
    ("Mounts", &[], Taken),
    ("NanoCpus", &[], Taken),
    ("NetworkMode", &[], Taken),
    (
        "OomKillDisable",
        &[],
        Warned("The guest's kernel does not support OomKillDisable. OomKillDisable discarded."),
    ),
    (
        "OomScoreAdj",
        &[],
        Warned("A virtual machine's memory is its own: OomScoreAdj has no effect."),
    ),
    (
        "PidMode",
        &["\"private\""],
        Partly(
            HOST,
            "A container's host is its own virtual machine: PidMode host is as private.",
            "sharing of namespaces (PidMode)",
        ),
    ),
    ("PidsLimit", &["-1"], Shown),
    ("PortBindings", &[], Taken),
    ("Privileged", &[], Shown),
    ("PublishAllPorts", &[], Taken),
    ("ReadonlyPaths", &[], Refused("a choice of read-only paths (ReadonlyPaths)")),
    ("ReadonlyRootfs", &[], Taken),
    ("RestartPolicy", &[], Taken),
    (
        "Runtime",
        &["\"ireko\""],
        Partly(
            &["\"runc\"", "\"io.containerd.runc.v2\""],
            "Every Ireko container is a virtual machine, whichever the Runtime.",
            "other runtimes (Runtime)",
        ),
    ),
    ("SecurityOpt", &[], Shown),
    ("ShmSize", &[], Shown),
    ("StorageOpt", &[], Refused("storage options (StorageOpt)")),
    ("Sysctls", &[], Shown),
    ("Tmpfs", &[], Taken),
    (
        "UTSMode",
        &["\"private\""],
        Partly(
            HOST,
            "A container's host is its own virtual machine: UTSMode host is as private.",
            "sharing of namespaces (UTSMode)",
        ),
    ),
    ("Ulimits", &[], Shown),
    ("UsernsMode", &["\"host\""], Refused("user namespaces (UsernsMode)")),
    ("VolumeDriver", &["\"local\""], Warned("There are no volumes: VolumeDriver has no effect.")),
    ("VolumesFrom", &[], Refused("volumes (VolumesFrom)")),
];

/// What became of a request that was accepted.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    /// For the answer.
    pub(crate) warnings: Vec<String>,
    /// What is shown of the container's `HostConfig` as it was said.
    pub(crate) noted: BTreeMap<String, Value>,
}

/// Goes through a create request's body.
///
/// Errors at the first field that asks for something Ireko does not do. Fields that are not
/// documented are nobody's wish.
pub(crate) fn check(body: &Map<String, Value>) -> ApiResult<Accepted> {
    let mut of_config = Accepted::default();
    check_fields(body, CONFIG, &mut of_config)?;
    let empty = Map::new();
    let host_config = body.get("HostConfig").and_then(Value::as_object).unwrap_or(&empty);
    let mut accepted = check_host_config(host_config)?;
    accepted.warnings.splice(..0, of_config.warnings);
    Ok(accepted)
}

/// The same for what is a `HostConfig` by itself, or a part of one.
pub(crate) fn check_host_config(body: &Map<String, Value>) -> ApiResult<Accepted> {
    let mut accepted = Accepted::default();
    check_fields(body, HOST_CONFIG, &mut accepted)?;
    Ok(accepted)
}

fn check_fields(
    object: &Map<String, Value>,
    fields: &[Field],
    accepted: &mut Accepted,
) -> ApiResult<()> {
    for (name, nothing, effect) in fields {
        let Some(value) = object.get(*name).filter(|value| !is_empty(value)) else { continue };
        let text = value.to_string();
        let says_nothing = nothing.contains(&text.as_str());
        if says_nothing && value.is_number() {
            continue;
        }
        if !says_nothing {
            match effect {
                Taken | Shown | SoAnyway => {}
                Warned(words) => accepted.warnings.push((*words).to_owned()),
                Partly(values, words, _) if values.contains(&text.as_str()) => {
                    accepted.warnings.push((*words).to_owned());
                }
                Refused(what) | Partly(_, _, what) => return Err(ApiError::not_yet(what)),
                Impossible(what) => return Err(ApiError::bad_request(*what)),
            }
        }
        if *effect != Taken {
            accepted.noted.insert((*name).to_owned(), value.clone());
        }
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(body: Value) -> ApiResult<Accepted> {
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
            let accepted = checked(serde_json::from_str(body).unwrap()).unwrap();
            assert_eq!(accepted.warnings, [] as [String; 0]);
        }
    }

    #[test]
    fn every_wish_that_cannot_be_met_is_refused() {
        refused(json!({ "HostConfig": { "Binds": ["/a:/b"] } }), "bind mounts");
        refused(json!({ "HostConfig": { "Isolation": "process" } }), "virtual machine");
        refused(json!({ "Volumes": { "/x": {} } }), "volumes");
    }

    #[test]
    fn what_has_no_effect_is_warned_about_and_shown_again() {
        let host = json!({ "CpuShares": 512, "PidMode": "host", "Isolation": "default" });
        let accepted = checked(json!({ "HostConfig": host })).unwrap();
        assert_eq!(accepted.warnings.len(), 2, "{:?}", accepted.warnings);
        assert_eq!(json!(accepted.noted), host);
        refused(json!({ "HostConfig": { "PidMode": "container:web" } }), "PidMode");
        refused(json!({ "HostConfig": { "Runtime": "kata" } }), "runtimes");
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
