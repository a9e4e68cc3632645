//! The daemon itself: ping, version, info, disk usage.

use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::images::summary;
use crate::api::query::Params;
use crate::dispatch::{NEWEST, OLDEST};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use ireko_engine::ImageUsage;
use jiff::Timestamp;
use rustix::system::uname;
use serde_json::{Value, json};

/// Ireko's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) async fn ping() -> Response {
    let headers = [
        (CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
        (CACHE_CONTROL.as_str(), "no-cache, no-store, must-revalidate"),
        ("Pragma", "no-cache"),
        ("Builder-Version", "1"),
        ("Swarm", "inactive"),
    ];
    (headers, "OK").into_response()
}

/// The processor in Go's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) async fn version() -> Json<Value> {
    let kernel = uname().release().to_string_lossy().into_owned();
    Json(json!({
        "Platform": { "Name": "Ireko" },
        "Version": VERSION,
        "ApiVersion": NEWEST.to_string(),
        "MinAPIVersion": OLDEST.to_string(),
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": kernel,
        "GitCommit": "",
        // Clients print this line; there is no Go in here.
        "GoVersion": "",
        "BuildTime": "",
        "Components": [{
            "Name": "Engine",
            "Version": VERSION,
            "Details": {
                "ApiVersion": NEWEST.to_string(),
                "MinAPIVersion": OLDEST.to_string(),
                "Os": "linux",
                "Arch": architecture(),
                "KernelVersion": kernel,
                "Experimental": "false",
                "BuildTime": "",
                "GitCommit": "",
                "GoVersion": "",
            },
        }],
    }))
}

pub(crate) async fn info(State(app): State<App>) -> ApiResult<Json<Value>> {
    let containers = app.engine.containers();
    let count =
        |status: &[&str]| containers.iter().filter(|one| status.contains(&one.status())).count();
    let images = app.engine.images().await?.len();
    let machine = uname();
    let places = app.engine.places();
    Ok(Json(json!({
        "ID": places.runtime.file_name().map(|name| name.to_string_lossy()),
        "Containers": containers.len(),
        "ContainersRunning": count(&["running", "restarting"]),
        "ContainersPaused": count(&["paused"]),
        "ContainersStopped": count(&["created", "exited", "removing"]),
        "Images": images,
        "Driver": "vhdx",
        "DriverStatus": [["Format", "VHDX differencing disks"]],
        "Plugins": { "Volume": [], "Network": [], "Authorization": null, "Log": ["json-file", "none"] },
        "MemoryLimit": true,
        "SwapLimit": false,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": false,
        "CPUSet": false,
        "PidsLimit": true,
        // About a host network that no container here uses: clients warn where one is false.
        "IPv4Forwarding": true,
        "BridgeNfIptables": true,
        "BridgeNfIp6tables": true,
        "Debug": false,
        "NFd": 0,
        "NGoroutines": 0,
        "NEventsListener": 0,
        "SystemTime": Timestamp::now().to_string(),
        "LoggingDriver": "json-file",
        "CgroupDriver": "none",
        "CgroupVersion": "2",
        "KernelVersion": machine.release().to_string_lossy(),
        "OperatingSystem": operating_system(),
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": machine.machine().to_string_lossy(),
        "IndexServerAddress": "",
        "RegistryConfig": { "IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": [] },
        "NCPU": std::thread::available_parallelism().map_or(1, |count| count.get()),
        "MemTotal": memory(),
        "GenericResources": null,
        "DockerRootDir": places.root,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": machine.nodename().to_string_lossy(),
        "Labels": [],
        "ExperimentalBuild": false,
        "ServerVersion": VERSION,
        "Runtimes": { "ireko": { "path": "ireko" } },
        "DefaultRuntime": "ireko",
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "",
        "SecurityOptions": [],
        "Warnings": [],
    })))
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The host's memory in bytes.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

pub(crate) async fn disk_usage(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let wanted: Vec<_> = params.all("type").collect();
    let is_wanted = |kind: &str| wanted.is_empty() || wanted.contains(&kind);
    let (mut usage, containers) = app.engine.usage().await?;
    usage.images.sort_by_key(|one| (std::cmp::Reverse(one.image.created), one.image.id));
    let mut shown = json!({ "LayersSize": usage.layer_bytes, "BuilderSize": 0 });
    if is_wanted("image") {
        shown["Images"] = usage
            .images
            .iter()
            .map(|ImageUsage { image, shared_bytes, .. }| {
                let mut shown = summary(image, |_| true);
                let id = image.id.hex();
                let users = containers.iter().filter(|one| one.record.image_id == id);
                shown["Containers"] = users.count().into();
                shown["SharedSize"] = (*shared_bytes).into();
                shown
            })
            .collect();
    }
    if is_wanted("container") {
        let mut containers = Vec::new();
        for record in app.engine.containers() {
            let sizes = crate::api::list::sizes(&app.engine, &record).await?;
            containers.push(crate::api::list::summary(&app.engine, &record, Some(sizes)));
        }
        shown["Containers"] = containers.into();
    }
    if is_wanted("volume") {
        shown["Volumes"] = json!([]);
    }
    if is_wanted("build-cache") {
        shown["BuildCache"] = json!([]);
    }
    Ok(Json(shown))
}
