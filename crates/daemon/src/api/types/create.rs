//! The body of `POST /containers/create`: those of its fields that Ireko takes. All others are in
//! [`crate::api::create_fields`].

use crate::api::endpoints::PortBindings;
use ireko_engine::oci::Healthcheck;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The whole body. Go's clients write `null` for whatever is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ContainerCreate {
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) attach_stdin: Option<bool>,
    pub(crate) attach_stdout: Option<bool>,
    pub(crate) attach_stderr: Option<bool>,
    pub(crate) exposed_ports: Option<BTreeMap<String, Value>>,
    pub(crate) tty: Option<bool>,
    pub(crate) open_stdin: Option<bool>,
    pub(crate) stdin_once: Option<bool>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) cmd: Option<Words>,
    pub(crate) image: Option<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) entrypoint: Option<Words>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) stop_timeout: Option<i64>,
    pub(crate) mac_address: Option<String>,
    pub(crate) network_disabled: Option<bool>,
    pub(crate) healthcheck: Option<Healthcheck>,
    pub(crate) host_config: Option<HostConfig>,
    pub(crate) networking_config: Option<NetworkingConfig>,
}

/// The networks, by name.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NetworkingConfig {
    pub(crate) endpoints_config: Option<BTreeMap<String, Value>>,
}

/// What is asked of the host.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct HostConfig {
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    pub(crate) memory: Option<i64>,
    pub(crate) memory_swap: Option<i64>,
    pub(crate) nano_cpus: Option<i64>,
    pub(crate) cpu_period: Option<i64>,
    pub(crate) cpu_quota: Option<i64>,
    pub(crate) init: Option<bool>,
    pub(crate) log_config: Option<LogConfig>,
    pub(crate) network_mode: Option<String>,
    pub(crate) port_bindings: Option<PortBindings>,
    pub(crate) publish_all_ports: Option<bool>,
    pub(crate) restart_policy: Option<RestartPolicy>,
    pub(crate) auto_remove: Option<bool>,
    pub(crate) console_size: Option<(u16, u16)>,
    pub(crate) dns: Option<Vec<String>>,
    pub(crate) dns_options: Option<Vec<String>>,
    pub(crate) dns_search: Option<Vec<String>>,
    pub(crate) extra_hosts: Option<Vec<String>>,
    pub(crate) readonly_rootfs: Option<bool>,
    pub(crate) tmpfs: Option<BTreeMap<String, String>>,
    pub(crate) mounts: Option<Vec<Mount>>,
    pub(crate) cap_add: Option<Vec<String>>,
    pub(crate) cap_drop: Option<Vec<String>>,
    pub(crate) group_add: Option<Vec<String>>,
    pub(crate) pids_limit: Option<i64>,
    pub(crate) privileged: Option<bool>,
    pub(crate) security_opt: Option<Vec<String>>,
    pub(crate) shm_size: Option<i64>,
    pub(crate) sysctls: Option<BTreeMap<String, String>>,
    pub(crate) ulimits: Option<Vec<Ulimit>>,
}

/// `Cmd` and `Entrypoint`: a list, or one word.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    pub(crate) fn into_list(self) -> Vec<String> {
        match self {
            Self::One(word) => vec![word],
            Self::Many(words) => words,
        }
    }
}

/// Where output is kept.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct LogConfig {
    pub(crate) r#type: Option<String>,
    pub(crate) config: Option<BTreeMap<String, String>>,
}

/// What happens when the process ends.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RestartPolicy {
    pub(crate) name: Option<String>,
    pub(crate) maximum_retry_count: Option<i64>,
}

/// One of `Ulimits`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Ulimit {
    pub(crate) name: String,
    pub(crate) soft: i64,
    pub(crate) hard: i64,
}

/// One of `Mounts`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Mount {
    pub(crate) r#type: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) read_only: Option<bool>,
    pub(crate) tmpfs_options: Option<TmpfsOptions>,
}

/// Options of a tmpfs mount.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TmpfsOptions {
    pub(crate) size_bytes: Option<u64>,
    pub(crate) mode: Option<u32>,
}
