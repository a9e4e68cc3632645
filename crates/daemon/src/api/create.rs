//! `POST /containers/create`: from Docker's JSON to a spec.

use crate::api::App;
use crate::api::body::read_json;
use crate::api::bounds::{bounds, pids_max};
use crate::api::create_fields::{self, Accepted};
use crate::api::endpoints;
use crate::api::error::{ApiError, ApiResult};
use crate::api::log_options;
use crate::api::query::Params;
use crate::api::types::create::{ContainerCreate, HostConfig, Mount, RestartPolicy};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use ireko_engine::oci::{self, Firmware, Hardware};
use ireko_engine::{
    ContainerSpec, DiskContent, DiskSpec, Dns, EndpointSpec, ExtraHost, Resources, StartChoice,
    StdioSpec,
};
use ireko_protocol::disks::{ANNOTATION as DISKS, DiskWish, WishedContent};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What the names of annotations begin with that say something to us.
pub(crate) const OURS: &str = "ireko.";
/// The annotation that is a machine's user data for cloud-init.
pub(crate) const USER_DATA: &str = "ireko.user-data";
/// The annotation with the public keys that a machine lets in, one a line.
pub(crate) const SSH_KEYS: &str = "ireko.ssh-keys";
/// The annotation that chooses a machine's firmware.
pub(crate) const FIRMWARE: &str = "ireko.firmware";
/// The annotation that says whether a VM may go on from a template.
pub(crate) const START: &str = "ireko.start";
/// The annotation that chooses a machine's devices.
pub(crate) const HARDWARE: &str = "ireko.hardware";
/// Its CPUs can run virtual machines themselves: `true` or `false`.
pub(crate) const NESTED: &str = "ireko.nested";

pub(crate) async fn create(
    State(app): State<App>,
    params: Params,
    body: Body,
) -> ApiResult<Response> {
    check_platform(params.get("platform"))?;
    let mut body: Map<String, Value> = read_json(body).await?;
    take_runtime(&mut body);
    if body.is_empty() {
        return Err(ApiError::bad_request("config cannot be empty in order to create a container"));
    }
    let Accepted { mut warnings, mut noted } = create_fields::check(&body)?;
    let mut body: ContainerCreate = serde_json::from_value(Value::Object(body))
        .map_err(|error| ApiError::bad_request(format!("invalid JSON: {error}")))?;
    let name = params.get("name").map(str::to_owned);
    let wishes = wishes(&mut body)?;
    if let Some(host) = &body.host_config {
        warnings.extend(swap_warning(host));
        warnings.extend(log_options::note(host.log_config.as_ref(), &mut noted)?);
    }
    let spec = ContainerSpec { noted, ..spec(body)? };
    let id = app.engine.create(name, spec, wishes).await?;
    warnings.extend(app.engine.twins(&id).await?);
    let answer = Json(json!({ "Id": id, "Warnings": warnings }));
    Ok((StatusCode::CREATED, answer).into_response())
}

/// docker-py says it beside `HostConfig`.
fn take_runtime(body: &mut Map<String, Value>) {
    let Some(runtime) = body.remove("Runtime") else { return };
    let host = body.entry("HostConfig").or_insert_with(|| json!({}));
    if let Some(host) = host.as_object_mut() {
        host.entry("Runtime").or_insert(runtime);
    }
}

/// The container's wishes for networks. A MAC address of its own is that of the main one.
fn wishes(body: &mut ContainerCreate) -> ApiResult<Vec<EndpointSpec>> {
    let host = body.host_config.get_or_insert_default();
    if body.network_disabled.unwrap_or_default() {
        host.network_mode = Some("none".to_owned());
    }
    let mode = host.network_mode.clone().filter(|mode| !mode.is_empty());
    let mode = mode.unwrap_or_else(|| "default".to_owned());
    let networking = body.networking_config.take().unwrap_or_default();
    let endpoints = networking.endpoints_config.unwrap_or_default();
    let mut wishes = Vec::new();
    for (network, settings) in &endpoints {
        wishes.push(endpoints::wish(network, settings)?);
    }
    if let Some(mac) = body.mac_address.take().filter(|mac| !mac.is_empty()) {
        let mac = mac.parse().map_err(ApiError::bad_request)?;
        match wishes.iter_mut().find(|wish| wish.network == mode) {
            Some(wish) => wish.mac = Some(mac),
            None => {
                wishes.push(EndpointSpec { network: mode, mac: Some(mac), ..Default::default() });
            }
        }
    }
    Ok(wishes)
}

/// Only this machine's own kind can be run.
fn check_platform(platform: Option<&str>) -> ApiResult<()> {
    let own = format!("linux/{}", crate::api::system::architecture());
    match platform {
        None => Ok(()),
        Some(platform) if platform == own || platform == "linux" => Ok(()),
        Some(other) => {
            Err(ApiError::bad_request(format!("Ireko runs {own} images only, not {other}")))
        }
    }
}

fn spec(body: ContainerCreate) -> ApiResult<ContainerSpec> {
    let image = body.image.filter(|image| !image.is_empty());
    let image = image.ok_or_else(|| ApiError::bad_request("no image was named"))?;
    let host = body.host_config.unwrap_or_default();
    check_swap(&host)?;
    let (gateway_hosts, extra_hosts) = extra_hosts(host.extra_hosts.clone().unwrap_or_default())?;
    let attached = [body.attach_stdin, body.attach_stdout, body.attach_stderr];
    let stdio = StdioSpec {
        tty: body.tty.unwrap_or_default(),
        open_stdin: body.open_stdin.unwrap_or_default(),
        stdin_once: body.stdin_once.unwrap_or_default(),
        attached: attached.map(Option::unwrap_or_default),
        console_size: host.console_size.unwrap_or_default(),
    };
    let Own { firmware, hardware, nested, disks, start, user_data, ssh_keys } =
        own(host.annotations.as_ref())?;
    let (keep_log, log_limit) = log_options::parse(host.log_config.as_ref())?;
    Ok(ContainerSpec {
        firmware,
        hardware,
        nested,
        disks,
        start,
        user_data,
        ssh_keys,
        healthcheck: body.healthcheck.filter(|check| *check != oci::Healthcheck::default()),
        image,
        command: body.cmd.map(|words| words.into_list()),
        entrypoint: body.entrypoint.map(|words| words.into_list()),
        env: body.env.unwrap_or_default(),
        working_dir: body.working_dir,
        user: body.user,
        hostname: body.hostname.map(check_hostname).transpose()?,
        domain_name: body
            .domainname
            .filter(|name| !name.is_empty())
            .map(check_hostname)
            .transpose()?,
        labels: body.labels.unwrap_or_default(),
        exposed_ports: body.exposed_ports.unwrap_or_default().into_keys().collect(),
        stop_signal: body.stop_signal.filter(|signal| !signal.is_empty()),
        stop_timeout: body.stop_timeout,
        stdio,
        resources: Resources { pids_max: pids_max(&host).flatten(), ..resources(&host)? },
        bounds: bounds(&host)?,
        noted: BTreeMap::new(),
        auto_remove: host.auto_remove.unwrap_or_default(),
        restart: restart(host.restart_policy.as_ref(), host.auto_remove)?,
        read_only: host.readonly_rootfs.unwrap_or_default(),
        tmpfs: tmpfs(host.tmpfs.unwrap_or_default(), host.mounts.unwrap_or_default())?,
        init: host.init.unwrap_or_default(),
        network: host.network_mode.unwrap_or_default(),
        extra_hosts,
        gateway_hosts,
        publish: endpoints::publish(host.port_bindings.unwrap_or_default())?,
        publish_all: host.publish_all_ports.unwrap_or_default(),
        dns: Dns {
            servers: name_servers(host.dns.unwrap_or_default())?,
            search: host.dns_search.unwrap_or_default(),
            options: host.dns_options.unwrap_or_default(),
        },
        keep_log,
        log_limit,
    })
}

/// What is asked for that Docker has no field for.
#[derive(Default)]
struct Own {
    firmware: Option<Firmware>,
    hardware: Option<Hardware>,
    nested: bool,
    disks: Vec<DiskSpec>,
    start: StartChoice,
    user_data: Option<String>,
    ssh_keys: Vec<String>,
}

/// The one place for what Docker has no field for.
fn own(annotations: Option<&BTreeMap<String, String>>) -> ApiResult<Own> {
    let mut own = Own::default();
    let wrong = |error: oci::Error| ApiError::bad_request(error.to_string());
    for (name, value) in annotations.into_iter().flatten() {
        match name.as_str() {
            FIRMWARE => own.firmware = Some(value.parse().map_err(wrong)?),
            HARDWARE => own.hardware = Some(value.parse().map_err(wrong)?),
            NESTED => {
                let wrong = |_| ApiError::bad_request(format!("{NESTED} is true or false"));
                own.nested = value.parse().map_err(wrong)?;
            }
            START => own.start = value.parse().map_err(ApiError::bad_request)?,
            DISKS => {
                let list = DiskWish::list(value);
                let list = list.map_err(|error| ApiError::bad_request(error.to_string()))?;
                own.disks = list.into_iter().map(disk).collect();
            }
            USER_DATA => own.user_data = Some(value.clone()),
            SSH_KEYS => {
                let lines = value.lines().map(str::trim).filter(|line| !line.is_empty());
                own.ssh_keys = lines.map(str::to_owned).collect();
            }
            // Notes for runtimes that know them.
            _ if !name.starts_with(OURS) => {}
            _ => {
                return Err(ApiError::not_yet(&format!(
                    "annotations of its own other than {FIRMWARE}, {HARDWARE}, {NESTED}, {START}, {DISKS}, \
                     {USER_DATA} and {SSH_KEYS}"
                )));
            }
        }
    }
    Ok(own)
}

fn disk(wish: DiskWish) -> DiskSpec {
    let content = match wish.content {
        WishedContent::Blank(bytes) => DiskContent::Blank(bytes),
        WishedContent::File(file) => DiskContent::File(file),
    };
    DiskSpec { name: wish.name, content }
}

/// The other way round, for inspect.
pub(crate) fn disk_list(disks: &[DiskSpec]) -> String {
    let wish = |disk: &DiskSpec| DiskWish {
        name: disk.name.clone(),
        content: match &disk.content {
            DiskContent::Blank(bytes) => WishedContent::Blank(*bytes),
            DiskContent::File(file) => WishedContent::File(file.clone()),
        },
    };
    disks.iter().map(|disk| wish(disk).to_string()).collect::<Vec<_>>().join(",")
}

fn check_hostname(name: String) -> ApiResult<String> {
    let is_good =
        name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    match is_good {
        true => Ok(name),
        false => Err(ApiError::bad_request(format!("invalid hostname: {name}"))),
    }
}

fn check_swap(host: &HostConfig) -> ApiResult<()> {
    let given = |value: Option<i64>| value.filter(|value| *value > 0);
    let refusal = match (given(host.memory_swap), given(host.memory)) {
        (Some(_), None) => {
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        }
        (Some(swap), Some(memory)) if swap < memory => {
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        }
        _ => return Ok(()),
    };
    Err(ApiError::bad_request(refusal))
}

/// The guest has no swap, whatever it may use of it.
pub(crate) fn swap_warning(host: &HostConfig) -> Option<String> {
    let swap = host.memory_swap.filter(|swap| *swap > 0)?;
    let words = "The guest has no swap: it has the memory of Memory and no more.";
    (Some(swap) != host.memory).then(|| words.to_owned())
}

pub(crate) fn resources(host: &HostConfig) -> ApiResult<Resources> {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    let memory = given(host.memory)
        .map(u64::try_from)
        .transpose()
        .map_err(|_| ApiError::bad_request("invalid memory limit"))?;
    let nano = given(host.nano_cpus).map(|nano| nano / 1_000_000);
    let quota = given(host.cpu_quota)
        .filter(|quota| *quota > 0)
        .map(|quota| quota.saturating_mul(1000) / given(host.cpu_period).unwrap_or(100_000).max(1));
    if nano.is_some() && quota.is_some() {
        return Err(ApiError::bad_request(
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ));
    }
    // Out of range is refused by the engine, which knows the range.
    let cpu_millis = nano.or(quota).map(|millis| u64::try_from(millis).unwrap_or(0));
    Ok(Resources { memory, cpu_millis, pids_max: None })
}

pub(crate) fn restart(
    policy: Option<&RestartPolicy>,
    auto_remove: Option<bool>,
) -> ApiResult<ireko_engine::RestartPolicy> {
    use ireko_engine::RestartPolicy as Restart;
    let Some(policy) = policy else { return Ok(Restart::No) };
    let count = policy.maximum_retry_count.unwrap_or_default();
    let name = policy.name.as_deref().unwrap_or_default();
    let limit = u32::try_from(count).map_err(|_| {
        ApiError::bad_request("invalid restart policy: maximum retry count cannot be negative")
    })?;
    if limit > 0 && name != "on-failure" {
        return Err(ApiError::bad_request(format!(
            "invalid restart policy: maximum retry count can only be used with 'on-failure', not \
             '{name}'"
        )));
    }
    let restart = match name {
        "" | "no" => Restart::No,
        "always" => Restart::Always,
        "unless-stopped" => Restart::UnlessStopped,
        "on-failure" => Restart::OnFailure { limit },
        other => {
            return Err(ApiError::bad_request(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', \
                 'on-failure', or 'unless-stopped'"
            )));
        }
    };
    match (restart, auto_remove) {
        (Restart::No, _) | (_, None | Some(false)) => Ok(restart),
        _ => Err(ApiError::bad_request("can't create 'AutoRemove' container with restart policy")),
    }
}

fn tmpfs(
    mut mounts: BTreeMap<String, String>,
    more: Vec<Mount>,
) -> ApiResult<BTreeMap<String, String>> {
    for mount in more {
        let kind = mount.r#type.as_deref().unwrap_or_default();
        if kind != "tmpfs" {
            return Err(ApiError::not_yet(&format!("mounts of type {kind:?} (Mounts)")));
        }
        let target = mount.target.unwrap_or_default();
        let options = mount.tmpfs_options.unwrap_or_default();
        let words = [
            options.size_bytes.filter(|size| *size > 0).map(|size| format!("size={size}")),
            options.mode.filter(|mode| *mode > 0).map(|mode| format!("mode={mode:o}")),
            mount.read_only.filter(|only| *only).map(|_| "ro".to_owned()),
        ];
        mounts.insert(target, words.into_iter().flatten().collect::<Vec<_>>().join(","));
    }
    match mounts.keys().find(|path| !path.starts_with('/')) {
        Some(path) => Err(ApiError::bad_request(format!(
            "invalid mount path: '{path}' mount path must be absolute"
        ))),
        None => Ok(mounts),
    }
}

/// Names for the gateway's address (`host-gateway`), and names for others.
fn extra_hosts(lines: Vec<String>) -> ApiResult<(Vec<String>, Vec<ExtraHost>)> {
    let (mut of_gateway, mut others) = (Vec::new(), Vec::new());
    for line in lines {
        let bad = || ApiError::bad_request(format!("bad format for add-host: {line:?}"));
        let (name, address) = line.split_once([':', '=']).ok_or_else(bad)?;
        if address == "host-gateway" {
            of_gateway.push(name.to_owned());
            continue;
        }
        let address = address.trim_matches(['[', ']']).parse().map_err(|_| bad())?;
        others.push(ExtraHost { name: name.to_owned(), address });
    }
    Ok((of_gateway, others))
}

fn name_servers(texts: Vec<String>) -> ApiResult<Vec<IpAddr>> {
    texts
        .iter()
        .map(|text| {
            text.parse().map_err(|_| ApiError::bad_request(format!("bad format for dns: {text:?}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_engine::RestartPolicy as Restart;

    fn specified(body: Value) -> ApiResult<ContainerSpec> {
        spec(serde_json::from_value(body).unwrap())
    }

    #[test]
    fn dockers_words_become_a_spec() {
        let spec = specified(json!({
            "Image": "base", "Cmd": "sh", "Entrypoint": ["env"], "Tty": true, "Env": null,
            "HostConfig": {
                "NanoCpus": 1_500_000_000, "Memory": 104_857_600, "MemorySwap": -1,
                "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 3 },
                "Tmpfs": { "/t": "size=1m" },
                "Mounts": [{ "Type": "tmpfs", "Target": "/u", "TmpfsOptions": { "Mode": 1023 } }],
                "ExtraHosts": ["a:1.2.3.4", "b=[::1]", "c:host-gateway"], "ConsoleSize": [24, 80],
            },
        }))
        .unwrap();
        assert_eq!(spec.command, Some(vec!["sh".to_owned()]));
        assert_eq!(spec.entrypoint, Some(vec!["env".to_owned()]));
        assert_eq!(spec.resources.cpu_millis, Some(1500));
        assert_eq!(spec.resources.memory, Some(104_857_600));
        assert_eq!(spec.restart, Restart::OnFailure { limit: 3 });
        assert_eq!(spec.tmpfs["/u"], "mode=1777");
        assert_eq!(
            (spec.extra_hosts.len(), spec.gateway_hosts.as_slice()),
            (2, &["c".to_owned()][..])
        );
        assert_eq!(spec.stdio.console_size, (24, 80));
        assert!(spec.keep_log && spec.stdio.tty);
    }

    #[test]
    fn a_machine_is_chosen_by_annotations_of_ours() {
        let with = |name: &str, value: &str| {
            specified(json!({ "Image": "x", "HostConfig": { "Annotations": { name: value } } }))
        };
        assert_eq!(with(FIRMWARE, "uefi-secure").unwrap().firmware, Some(Firmware::UefiSecure));
        assert_eq!(with(HARDWARE, "virtio").unwrap().hardware, Some(Hardware::Virtio));
        assert!(with(NESTED, "true").unwrap().nested && with(NESTED, "maybe").is_err());
        assert_eq!(with(USER_DATA, "#!/bin/sh").unwrap().user_data.as_deref(), Some("#!/bin/sh"));
        assert_eq!(with(SSH_KEYS, "a b\n\nc d\n").unwrap().ssh_keys, ["a b", "c d"]);
        assert!(with(FIRMWARE, "efi").unwrap_err().to_string().contains("use bios, uefi"));
        assert!(with("ireko.x", "y").unwrap_err().to_string().contains("annotations"));
        assert!(with("com.example", "x").is_ok());
    }

    #[test]
    fn contradictions_are_refused() {
        let with = |host: Value| specified(json!({ "Image": "x", "HostConfig": host }));
        let policy = json!({ "Name": "always", "MaximumRetryCount": 0 });
        assert!(with(json!({ "AutoRemove": true, "RestartPolicy": policy })).is_err());
        assert!(with(json!({ "NanoCpus": 1_000_000_000, "CpuQuota": 50_000 })).is_err());
        assert!(with(json!({ "Memory": 2_i64 << 30, "MemorySwap": 1 << 30 })).is_err());
        assert!(with(json!({ "Mounts": [{ "Type": "bind", "Target": "/x" }] })).is_err());
        assert!(with(json!({ "LogConfig": { "Type": "syslog" } })).is_err());
        assert_eq!(with(json!({ "CpuQuota": 50_000 })).unwrap().resources.cpu_millis, Some(500));
        assert!(specified(json!({})).is_err());
    }
}
