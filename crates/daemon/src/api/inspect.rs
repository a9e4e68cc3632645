//! `GET /containers/{id}/json`: all there is to say about a container, in docker's shape.

use crate::api::App;
use crate::api::create::{FIRMWARE, HARDWARE, NESTED, OURS, SSH_KEYS, USER_DATA, disk_list};
use crate::api::endpoints;
use crate::api::error::ApiResult;
use crate::api::list::{network_mode, sizes};
use crate::api::query::Params;
use axum::Json;
use axum::extract::{Path, State};
use ireko_engine::{
    ContainerRecord, DEFAULT_NETWORK, Engine, GuestInterface, RestartPolicy, RunState, hostname,
};
use ireko_protocol::disks::ANNOTATION as DISKS;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The field of `HostConfig` that holds ours and others.
const ANNOTATIONS: &str = "Annotations";

/// Docker's word for a time that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

pub(crate) async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<Json<Value>> {
    let record = app.engine.inspect(&id)?;
    let reported = app.engine.reported_addresses(&record).await;
    let mut shown = container(&app.engine, &record, &reported);
    if params.flag("size") {
        let (own, all) = sizes(&app.engine, &record).await?;
        shown["SizeRw"] = own.into();
        shown["SizeRootFs"] = all.into();
    }
    Ok(Json(shown))
}

fn container(engine: &Engine, record: &ContainerRecord, reported: &[GuestInterface]) -> Value {
    let folder = engine.places().root.join("containers").join(&record.id);
    let argv = record.process.argv();
    let (program, arguments) = argv.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let execs = Some(engine.execs_of(record)).filter(|execs| !execs.is_empty());
    json!({
        "Id": record.id,
        "Created": record.created.to_string(),
        "Path": program,
        "Args": arguments,
        "State": state(engine, record),
        "Image": record.image_digest(),
        // These are files of the guest's memory, given to it at each start.
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": if record.spec.keep_log { folder.join("log") } else { PathBuf::new() },
        "Name": format!("/{}", record.name),
        "RestartCount": record.restart_count,
        "Driver": "vhdx",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": execs,
        "HostConfig": host_config(record),
        "GraphDriver": {
            "Name": "vhdx",
            "Data": { "File": folder.join(&record.scratch) },
        },
        // Docker has no word for a machine's disks.
        "Disks": record.disks.iter().map(|disk| {
            json!({ "Name": disk.name, "File": folder.join(&disk.file) })
        }).collect::<Vec<_>>(),
        "Mounts": [],
        "Config": config(record),
        "NetworkSettings": network_settings(engine, record, reported),
    })
}

fn state(engine: &Engine, record: &ContainerRecord) -> Value {
    let time = |at: Option<Timestamp>| at.map_or_else(|| NEVER.to_owned(), |at| at.to_string());
    let last = record.last_run.as_ref();
    let (running, paused, pid, started_at) = match &record.state {
        RunState::Running { vm_pid, started_at, paused, .. } => {
            (true, *paused, *vm_pid, Some(*started_at))
        }
        _ => (false, false, 0, last.and_then(|run| run.started_at)),
    };
    let is_restarting = record.state == RunState::Restarting;
    let mut shown = json!({
        "Status": record.status(),
        "Running": running || is_restarting,
        "Paused": paused,
        "Restarting": is_restarting,
        "OOMKilled": last.is_some_and(|run| run.oom_killed) && !running,
        "Dead": false,
        "Pid": pid,
        // Docker has no word for this, and is told `exited`.
        "Suspended": record.is_suspended(),
        "Origin": record.origin,
        "ExitCode": last.filter(|_| !running).map_or(0, |run| run.exit_code),
        "Error": last.filter(|_| !running).and_then(|run| run.error.as_deref()).unwrap_or_default(),
        "StartedAt": time(started_at),
        "FinishedAt": time(last.and_then(|run| run.finished_at)),
    });
    if let Some(limits) = engine.limits_of(record) {
        // Docker has no word for the limits that its host keeps a VM to.
        shown["HostLimits"] = json!({
            "Group": limits.group,
            "Memory": limits.memory,
            "NanoCpus": limits.cpu_millis.map(|millis| millis.saturating_mul(1_000_000)),
            "PidsLimit": limits.tasks,
            "Reason": limits.reason,
        });
    }
    if let Some(health) = engine.health(record) {
        let checks = health.log.iter().map(|check| {
            json!({
                "Start": check.start.to_string(),
                "End": check.end.to_string(),
                "ExitCode": check.exit_code,
                "Output": check.output,
            })
        });
        shown["Health"] = json!({
            "Status": health.status.word(),
            "FailingStreak": health.failing_streak,
            "Log": checks.collect::<Vec<_>>(),
        });
    }
    shown
}

fn config(record: &ContainerRecord) -> Value {
    let spec = &record.spec;
    let [attach_stdin, attach_stdout, attach_stderr] = spec.stdio.attached;
    let none_if_empty = |words: &Vec<String>| Some(words.clone()).filter(|words| !words.is_empty());
    let mut shown = json!({
        "Hostname": hostname(record),
        "Domainname": spec.domain_name.as_deref().unwrap_or_default(),
        "User": record.process.user,
        "AttachStdin": attach_stdin,
        "AttachStdout": attach_stdout,
        "AttachStderr": attach_stderr,
        "Tty": spec.stdio.tty,
        "OpenStdin": spec.stdio.open_stdin,
        "StdinOnce": spec.stdio.stdin_once,
        "Env": record.process.env,
        "Cmd": none_if_empty(&record.process.command),
        "Image": spec.image,
        "Volumes": null,
        "WorkingDir": record.process.working_dir,
        "Entrypoint": none_if_empty(&record.process.entrypoint),
        "OnBuild": null,
        "Labels": record.labels,
        "StopSignal": record.process.stop_signal,
    });
    if !spec.exposed_ports.is_empty() {
        let ports = spec.exposed_ports.iter().map(|port| (port.clone(), json!({})));
        shown["ExposedPorts"] = Value::Object(ports.collect());
    }
    let check = record.health.as_ref().map(|health| &health.check);
    if let Some(check) = check.or(spec.healthcheck.as_ref()) {
        shown["Healthcheck"] = json!(check);
    }
    if let Some(seconds) = spec.stop_timeout {
        shown["StopTimeout"] = seconds.into();
    }
    shown
}

fn host_config(record: &ContainerRecord) -> Value {
    let spec = &record.spec;
    let (policy, retries) = match spec.restart {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { limit } => ("on-failure", limit),
    };
    let of_gateway = spec.gateway_hosts.iter().map(|name| format!("{name}:host-gateway"));
    let others = spec.extra_hosts.iter().map(|host| format!("{}:{}", host.name, host.address));
    let extra_hosts: Vec<_> = others.chain(of_gateway).collect();
    let tmpfs: Map<_, _> =
        spec.tmpfs.iter().map(|(path, options)| (path.clone(), json!(options))).collect();
    let said = spec.noted.get(ANNOTATIONS).and_then(Value::as_object).cloned();
    // Ours are shown as they turned out.
    let mut annotations = said.unwrap_or_default();
    annotations.retain(|name, _| !name.starts_with(OURS));
    if let Some(machine) = record.machine {
        annotations.insert(FIRMWARE.to_owned(), machine.firmware.to_string().into());
        annotations.insert(HARDWARE.to_owned(), machine.hardware.to_string().into());
    }
    if !spec.disks.is_empty() {
        annotations.insert(DISKS.to_owned(), disk_list(&spec.disks).into());
    }
    if spec.nested {
        annotations.insert(NESTED.to_owned(), "true".into());
    }
    if let Some(user_data) = &spec.user_data {
        annotations.insert(USER_DATA.to_owned(), user_data.clone().into());
    }
    if !spec.ssh_keys.is_empty() {
        annotations.insert(SSH_KEYS.to_owned(), spec.ssh_keys.join("\n").into());
    }
    // A quota was given in other words, which are noted.
    let nano_cpus = match spec.noted.contains_key("CpuQuota") {
        true => 0,
        false => spec.resources.cpu_millis.unwrap_or_default().saturating_mul(1_000_000),
    };
    let mut shown = json!({
        "Annotations": Some(annotations).filter(|all| !all.is_empty()),
        "Binds": null,
        "ContainerIDFile": "",
        "LogConfig": {
            "Type": if spec.keep_log { "json-file" } else { "none" },
            "Config": {},
        },
        "NetworkMode": network_mode(record),
        "PortBindings": endpoints::port_bindings(record),
        "RestartPolicy": { "Name": policy, "MaximumRetryCount": retries },
        "AutoRemove": spec.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": null,
        "ConsoleSize": [spec.stdio.console_size.0, spec.stdio.console_size.1],
        "CapAdd": null,
        "CapDrop": null,
        "CgroupnsMode": "private",
        "Dns": spec.dns.servers,
        "DnsOptions": spec.dns.options,
        "DnsSearch": spec.dns.search,
        "ExtraHosts": Some(extra_hosts).filter(|hosts| !hosts.is_empty()),
        "GroupAdd": null,
        "IpcMode": "private",
        "Cgroup": "",
        "Links": null,
        "OomScoreAdj": 0,
        "PidMode": "",
        "Privileged": false,
        "PublishAllPorts": spec.publish_all,
        "ReadonlyRootfs": spec.read_only,
        "SecurityOpt": null,
        "Tmpfs": Some(tmpfs).filter(|mounts| !mounts.is_empty()),
        "UTSMode": "",
        "UsernsMode": "",
        "ShmSize": 67_108_864,
        "Runtime": "ireko",
        "Isolation": "",
        "CpuShares": 0,
        "Memory": spec.resources.memory.unwrap_or_default(),
        "NanoCpus": nano_cpus,
        "CgroupParent": "",
        "BlkioWeight": 0,
        "CpuPeriod": 0,
        "CpuQuota": 0,
        "CpusetCpus": "",
        "CpusetMems": "",
        "Devices": [],
        "DeviceCgroupRules": null,
        "DeviceRequests": null,
        "MemoryReservation": 0,
        "MemorySwap": 0,
        "MemorySwappiness": null,
        "OomKillDisable": false,
        "PidsLimit": null,
        "Ulimits": [],
        "MaskedPaths": [],
        "ReadonlyPaths": [],
        "Init": spec.init,
    });
    for (name, value) in spec.noted.iter().filter(|(name, _)| *name != ANNOTATIONS) {
        shown[name.as_str()] = value.clone();
    }
    shown
}

fn network_settings(
    engine: &Engine,
    record: &ContainerRecord,
    reported: &[GuestInterface],
) -> Value {
    let networks = endpoints::networks(engine, record, reported);
    // Docker repeats the default network's settings beside all networks'.
    let of_default = |name: &str| networks[DEFAULT_NETWORK][name].as_str().unwrap_or_default();
    let prefix = networks[DEFAULT_NETWORK]["IPPrefixLen"].as_u64().unwrap_or_default();
    json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": "",
        "Ports": endpoints::ports(record),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": of_default("EndpointID"),
        "Gateway": of_default("Gateway"),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": of_default("IPAddress"),
        "IPPrefixLen": prefix,
        "IPv6Gateway": "",
        "MacAddress": of_default("MacAddress"),
        "Networks": networks,
    })
}
