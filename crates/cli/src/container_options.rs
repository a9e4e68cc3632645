//! The options `run` and `create` share, and the request they become.
//!
//! Only what was asked for is sent; everything else is the daemon's to decide.

use crate::addressing::{Addressing, Subnet};
use crate::error::{Error, Result};
use crate::health_options::{HealthOptions, Healthcheck};
use crate::publish::{PortBinding, Publish};
use crate::{quantity, terminal};
use ireko_protocol::disks::{ANNOTATION, DiskWish, WishedContent};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// What a new container is like. Options end at IMAGE; what follows is the command's own.
#[derive(clap::Args, Clone, Debug)]
pub struct ContainerOptions {
    /// Add a host-to-IP mapping to /etc/hosts: NAME:IP; host-gateway is the host
    #[arg(long, value_name = "list")]
    add_host: Vec<String>,

    /// Write the container's id to this file, which must not exist
    #[arg(long, value_name = "file")]
    pub cidfile: Option<PathBuf>,

    /// Number of CPUs, such as 2
    #[arg(long, value_name = "decimal", value_parser = quantity::nano_cpus)]
    cpus: Option<i64>,

    /// Add a disk: [NAME=]SIZE, blank, or [NAME=]FILE, a copy of any disk file
    #[arg(long, value_name = "disk")]
    disk: Vec<DiskWish>,

    /// Set custom DNS servers
    #[arg(long, value_name = "list")]
    dns: Vec<String>,

    /// Set DNS options
    #[arg(long, value_name = "list")]
    dns_option: Vec<String>,

    /// Set custom DNS search domains
    #[arg(long, value_name = "list")]
    dns_search: Vec<String>,

    /// Overwrite the image's entrypoint; "" clears it
    #[arg(long, value_name = "string")]
    entrypoint: Option<String>,

    /// Set an environment variable: NAME=VALUE, or NAME for its value here
    #[arg(short, long, value_name = "list", value_parser = quantity::environment_entry)]
    env: Vec<String>,

    /// Read environment variables from a file
    #[arg(long, value_name = "list")]
    env_file: Vec<PathBuf>,

    /// Gateway of --ip's network, as a check; without --network it names the network
    #[arg(long, requires = "ip", value_name = "address")]
    gateway: Option<Ipv4Addr>,

    /// What boots a whole operating system: bios, uefi or uefi-secure
    #[arg(long, value_name = "string")]
    firmware: Option<String>,

    /// A whole operating system's devices: virtio or compatible
    #[arg(long, value_name = "string")]
    hardware: Option<String>,

    /// Let a whole operating system run virtual machines itself, where this host's KVM can
    #[arg(long)]
    nested: bool,

    /// Where its VM begins: auto, pool, template or cold
    #[arg(long, value_name = "string")]
    start: Option<String>,

    #[command(flatten)]
    health: HealthOptions,

    // Docker gives -h to the host name, so help has its long name only.
    /// Print usage
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// Container host name
    #[arg(short = 'h', long, value_name = "string")]
    hostname: Option<String>,

    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long)]
    init: bool,

    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub interactive: bool,

    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long, value_name = "string")]
    ip: Option<String>,

    /// Set meta data on a container
    #[arg(short, long, value_name = "list")]
    label: Vec<String>,

    /// Logging driver for the container
    #[arg(long, value_name = "string")]
    log_driver: Option<String>,

    /// Log driver options: max-size=10m, max-file=3
    #[arg(long, value_name = "list")]
    log_opt: Vec<String>,

    /// Container MAC address (e.g., 92:d0:c6:0a:29:33)
    #[arg(long, value_name = "string")]
    mac_address: Option<String>,

    /// Memory of the container's virtual machine, such as 512m or 2g
    #[arg(short, long, value_name = "bytes", value_parser = quantity::bytes)]
    memory: Option<u64>,

    /// Assign a name to the container
    #[arg(long, value_name = "string")]
    pub name: Option<String>,

    /// Connect the container to a network
    #[arg(long, visible_alias = "net", value_name = "network")]
    network: Option<String>,

    /// Add a network-scoped alias for the container
    #[arg(long, visible_alias = "net-alias", value_name = "list")]
    network_alias: Vec<String>,

    /// Publish a container's port to the host: [[IP:]HOST[-LAST]:]CONTAINER[/PROTOCOL]
    #[arg(short, long, value_name = "list")]
    publish: Vec<Publish>,

    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long)]
    publish_all: bool,

    /// Mount the container's root file system as read only
    #[arg(long)]
    read_only: bool,

    /// Restart policy: no, on-failure[:max], always, unless-stopped
    #[arg(long, value_name = "string")]
    restart: Option<RestartPolicy>,

    /// Remove the container when it exits
    #[arg(long = "rm")]
    pub remove: bool,

    /// Let this public key in: a file such as ~/.ssh/id_ed25519.pub (whole operating systems)
    #[arg(long, value_name = "file")]
    ssh_key: Vec<PathBuf>,

    /// Signal to stop the container
    #[arg(long, value_name = "string")]
    stop_signal: Option<String>,

    /// Seconds to wait for the container to stop before killing it
    #[arg(long, value_name = "int", allow_negative_numbers = true)]
    stop_timeout: Option<i64>,

    /// Subnet of --ip's network, such as 24 or 255.255.255.0, likewise
    #[arg(long, requires = "ip", value_name = "subnet")]
    subnet: Option<Subnet>,

    /// Mount a tmpfs directory: PATH[:OPTIONS]
    #[arg(long, value_name = "list")]
    tmpfs: Vec<String>,

    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub tty: bool,

    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, value_name = "string")]
    user: Option<String>,

    /// What cloud-init is given at the first boot: a file (whole operating systems)
    #[arg(long, value_name = "file")]
    user_data: Option<PathBuf>,

    /// Bind mount a volume
    #[arg(short, long, value_name = "list")]
    volume: Vec<String>,

    /// Working directory inside the container
    #[arg(short, long, value_name = "string")]
    workdir: Option<String>,

    // One list, because clap stops looking for options at its first word, as docker does.
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE", hide = true)]
    image_and_command: Vec<String>,
}

/// `--restart`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RestartPolicy {
    name: String,
    maximum_retry_count: u32,
}

impl std::str::FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, count) = match text.split_once(':') {
            Some((name, count)) => (name, Some(count)),
            None => (text, None),
        };
        let maximum_retry_count = match (name, count) {
            ("on-failure", Some(count)) => {
                count.parse().map_err(|_| "the number of retries is a whole number".to_owned())?
            }
            (_, Some(_)) => return Err("only on-failure takes a number of retries".into()),
            (_, None) => 0,
        };
        Ok(Self { name: name.to_owned(), maximum_retry_count })
    }
}

/// The body of `POST /containers/create`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateRequest {
    image: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cmd: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<i64>,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Healthcheck>,
    host_config: HostConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    networking_config: Option<NetworkingConfig>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    auto_remove: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nano_cpus: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_mode: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    readonly_rootfs: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_policy: Option<RestartPolicy>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tmpfs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    init: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_config: Option<LogConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    binds: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    port_bindings: BTreeMap<String, Vec<PortBinding>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    publish_all_ports: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns_options: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns_search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extra_hosts: Vec<String>,
    /// Height and width.
    #[serde(skip_serializing_if = "Option::is_none")]
    console_size: Option<[u16; 2]>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogConfig {
    r#type: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    config: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkingConfig {
    endpoints_config: BTreeMap<String, Endpoint>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(rename = "IPAMConfig", skip_serializing_if = "Option::is_none")]
    ipam_config: Option<IpamConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac_address: Option<String>,
}

#[derive(Debug, Serialize)]
struct IpamConfig {
    #[serde(rename = "IPv4Address")]
    address: String,
}

/// Which of the process's streams the first client means to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// Output, and input with `-i`.
    Attached,
    /// None: `run -d`.
    Detached,
}

impl ContainerOptions {
    /// The image, as it was typed.
    pub fn image(&self) -> &str {
        self.image_and_command.first().map_or("", String::as_str)
    }

    /// What is said of the address, where that names a network or is to be compared with one.
    pub fn addressing(&self) -> Option<Result<Addressing<'_>>> {
        let Self { ip, subnet, gateway, network, .. } = self;
        let ip = ip.as_deref().filter(|_| subnet.is_some() || gateway.is_some())?;
        let network = network.as_deref();
        let address = ip.parse().map_err(|_| Error::usage(format!("{ip:?} is no IPv4 address")));
        let (subnet, gateway) = (*subnet, *gateway);
        Some(address.map(|address| Addressing { address, subnet, gateway, network }))
    }

    /// The same in this network.
    pub fn in_network(&self, network: String) -> Self {
        Self { network: Some(network), ..self.clone() }
    }

    /// Reads the files that are named and puts the request together.
    pub fn request(&self, streams: Streams) -> Result<CreateRequest> {
        let attached = streams == Streams::Attached;
        let command = self.image_and_command.iter().skip(1);
        let entrypoint = self.entrypoint.clone().map(|word| match word.is_empty() {
            true => Vec::new(),
            false => vec![word],
        });
        Ok(CreateRequest {
            image: self.image().to_owned(),
            cmd: command.cloned().collect(),
            entrypoint,
            env: environment(&self.env_file, &self.env)?,
            labels: self.label.iter().map(|label| pair(label, '=')).collect(),
            hostname: self.hostname.clone(),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout,
            tty: self.tty,
            open_stdin: self.interactive,
            stdin_once: self.interactive && attached,
            attach_stdin: self.interactive && attached,
            attach_stdout: attached,
            attach_stderr: attached,
            exposed_ports: self
                .publish
                .iter()
                .map(|publish| (publish.container.clone(), BTreeMap::new()))
                .collect(),
            healthcheck: self.health.healthcheck(),
            host_config: self.host_config(&self.disks()?)?,
            networking_config: self.networking_config(),
        })
    }

    /// The further disks, whose files the daemon finds wherever it runs.
    fn disks(&self) -> Result<Vec<DiskWish>> {
        let absolute = |wish: &DiskWish| {
            let content = match &wish.content {
                WishedContent::File(file) => {
                    WishedContent::File(std::path::absolute(file).map_err(|error| {
                        Error::local(format!("cannot tell where {} is", file.display()))
                            .because(error)
                    })?)
                }
                blank => blank.clone(),
            };
            Ok(DiskWish { name: wish.name.clone(), content })
        };
        self.disk.iter().map(absolute).collect()
    }

    fn host_config(&self, disks: &[DiskWish]) -> Result<HostConfig> {
        let mut port_bindings = BTreeMap::<_, Vec<_>>::new();
        for Publish { container, host } in self.publish.iter().cloned() {
            port_bindings.entry(container).or_default().push(host);
        }
        let disks: Vec<_> = disks.iter().map(DiskWish::to_string).collect();
        let disks = Some(disks.join(",")).filter(|list| !list.is_empty());
        let user_data = self.user_data.as_deref().map(read_text).transpose()?;
        let keys = self.ssh_key.iter().map(|file| public_keys(file)).collect::<Result<Vec<_>>>()?;
        let own = [
            ("ireko.firmware", self.firmware.clone()),
            ("ireko.hardware", self.hardware.clone()),
            ("ireko.nested", self.nested.then(|| "true".to_owned())),
            ("ireko.start", self.start.clone()),
            ("ireko.user-data", user_data),
            (ANNOTATION, disks),
            ("ireko.ssh-keys", Some(keys.concat()).filter(|keys| !keys.is_empty())),
        ];
        let chosen = own.into_iter().filter_map(|(name, word)| Some((name, word?)));
        Ok(HostConfig {
            annotations: chosen.collect(),
            auto_remove: self.remove,
            memory: self.memory,
            nano_cpus: self.cpus,
            network_mode: self.network.clone(),
            readonly_rootfs: self.read_only,
            restart_policy: self.restart.clone(),
            tmpfs: self.tmpfs.iter().map(|mount| pair(mount, ':')).collect(),
            init: self.init,
            log_config: self.log_config(),
            binds: self.volume.clone(),
            port_bindings,
            publish_all_ports: self.publish_all,
            dns: self.dns.clone(),
            dns_options: self.dns_option.clone(),
            dns_search: self.dns_search.clone(),
            extra_hosts: self.add_host.clone(),
            console_size: terminal::size()
                .filter(|_| self.tty)
                .map(|size| [size.rows, size.columns]),
        })
    }

    fn log_config(&self) -> Option<LogConfig> {
        let is_asked = self.log_driver.is_some() || !self.log_opt.is_empty();
        is_asked.then(|| LogConfig {
            r#type: self.log_driver.clone().unwrap_or_default(),
            config: self.log_opt.iter().map(|option| pair(option, '=')).collect(),
        })
    }

    fn networking_config(&self) -> Option<NetworkingConfig> {
        let endpoint = Endpoint {
            ipam_config: self.ip.clone().map(|address| IpamConfig { address }),
            aliases: self.network_alias.clone(),
            mac_address: self.mac_address.clone(),
        };
        let is_plain = endpoint.ipam_config.is_none()
            && endpoint.aliases.is_empty()
            && endpoint.mac_address.is_none();
        let network = self.network.clone().unwrap_or_else(|| "default".into());
        let endpoints_config = BTreeMap::from([(network, endpoint)]);
        (!is_plain).then_some(NetworkingConfig { endpoints_config })
    }
}

/// Entries of the files, then those of the command line: later ones win.
pub fn environment(files: &[PathBuf], entries: &[String]) -> Result<Vec<String>> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::usage(format!("cannot read the environment file {}", path.display()))
                .because(error)
        })?;
        let lookup = |name: &str| std::env::var(name).ok();
        quantity::environment_file(&text, lookup)
            .map_err(|why| Error::usage(format!("environment file {}: {why}", path.display())))
    };
    let mut all = Vec::new();
    for file in files {
        all.extend(read(file)?);
    }
    all.extend(entries.iter().cloned());
    Ok(all)
}

/// The lines of a file of public keys.
fn public_keys(file: &Path) -> Result<String> {
    let text = read_text(file)?;
    if text.contains("PRIVATE KEY") {
        return Err(Error::usage(format!("{} is a private key, which stays here", file.display()))
            .hint("give the file of the same name that ends in .pub"));
    }
    let keys =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(keys.map(|key| format!("{key}\n")).collect())
}

fn read_text(file: &Path) -> Result<String> {
    std::fs::read_to_string(file)
        .map_err(|error| Error::usage(format!("cannot read {}", file.display())).because(error))
}

fn pair(text: &str, separator: char) -> (String, String) {
    let (key, value) = text.split_once(separator).unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::{Value, json};

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        options: ContainerOptions,
    }

    fn request(words: &[&str]) -> Value {
        let line = Line::try_parse_from([&["run"], words].concat()).unwrap();
        serde_json::to_value(line.options.request(Streams::Attached).unwrap()).unwrap()
    }

    #[test]
    fn options_after_the_image_belong_to_the_command() {
        let body = request(&["-i", "base", "sh", "-c", "echo -- $0", "--rm", "--", "-t"]);
        assert_eq!(body["Image"], "base");
        assert_eq!(body["Cmd"], json!(["sh", "-c", "echo -- $0", "--rm", "--", "-t"]));
        assert_eq!(body["OpenStdin"], true);
        assert_eq!(body["Tty"], false);
        assert_eq!(body["HostConfig"], json!({}));
        assert_eq!(request(&["base", "-i"])["Cmd"], json!(["-i"]));
        assert_eq!(request(&["base", "--", "x"])["Cmd"], json!(["--", "x"]));
        assert_eq!(request(&["--", "base", "x"])["Cmd"], json!(["x"]));
    }

    #[test]
    fn nothing_is_sent_that_was_not_asked_for() {
        assert_eq!(
            request(&["base"]),
            json!({
                "Image": "base", "Tty": false, "OpenStdin": false, "StdinOnce": false,
                "AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
                "HostConfig": {},
            })
        );
    }

    #[test]
    fn every_option_arrives_where_docker_has_it() {
        let body = request(&[
            "-itm",
            "512m",
            "--cpus=1.5",
            "-e",
            "A=1",
            "-eB=2",
            "-w",
            "/srv",
            "-u",
            "1000:1000",
            "-h",
            "web",
            "--entrypoint",
            "/bin/sh",
            "-l",
            "a=b",
            "--label=c",
            "--network",
            "none",
            "--read-only",
            "--tmpfs",
            "/run:size=1m",
            "--init",
            "--stop-signal",
            "INT",
            "--stop-timeout",
            "-1",
            "--restart",
            "on-failure:3",
            "--disk",
            "data=1g",
            "--disk=/x.vhdx",
            "--health-cmd",
            "true -x",
            "--health-interval=1m30s",
            "--rm",
            "-p",
            "127.0.0.1:8080:80",
            "-v",
            "/a:/b",
            "--log-driver",
            "local",
            "--log-opt",
            "max-size=1m",
            "--ip",
            "10.0.0.2",
            "base",
        ]);
        assert_eq!(body["Env"], json!(["A=1", "B=2"]));
        assert_eq!(body["WorkingDir"], "/srv");
        assert_eq!(body["User"], "1000:1000");
        assert_eq!(body["Hostname"], "web");
        assert_eq!(body["Entrypoint"], json!(["/bin/sh"]));
        assert_eq!(body["Labels"], json!({"a": "b", "c": ""}));
        assert_eq!(body["StopSignal"], "INT");
        assert_eq!(body["StopTimeout"], -1);
        assert_eq!(body["StdinOnce"], true);
        assert_eq!(body["ExposedPorts"], json!({"80/tcp": {}}));
        let host = &body["HostConfig"];
        assert_eq!(host["Annotations"], json!({"ireko.disks": "data=1073741824,/x.vhdx"}));
        let interval = 90_000_000_000_i64;
        let check = json!({"Test": ["CMD-SHELL", "true -x"], "Interval": interval});
        assert_eq!(body["Healthcheck"], check);
        assert_eq!(request(&["--no-healthcheck", "x"])["Healthcheck"], json!({"Test": ["NONE"]}));
        assert_eq!(host["Memory"], 512 << 20);
        assert_eq!(host["NanoCpus"], 1_500_000_000);
        assert_eq!(host["NetworkMode"], "none");
        assert_eq!(host["ReadonlyRootfs"], true);
        assert_eq!(host["Tmpfs"], json!({"/run": "size=1m"}));
        assert_eq!(host["Init"], true);
        assert_eq!(host["AutoRemove"], true);
        assert_eq!(host["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 3}));
        assert_eq!(
            host["PortBindings"],
            json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]})
        );
        assert_eq!(host["Binds"], json!(["/a:/b"]));
        assert_eq!(host["LogConfig"], json!({"Type": "local", "Config": {"max-size": "1m"}}));
        assert_eq!(
            body["NetworkingConfig"],
            json!({"EndpointsConfig": {"none": {"IPAMConfig": {"IPv4Address": "10.0.0.2"}}}})
        );
    }

    #[test]
    fn a_detached_container_is_attached_to_nothing() {
        let line = Line::try_parse_from(["run", "-i", "base"]).unwrap();
        let body = serde_json::to_value(line.options.request(Streams::Detached).unwrap()).unwrap();
        assert_eq!(body["OpenStdin"], true);
        for name in ["StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr"] {
            assert_eq!(body[name], false, "{name}");
        }
    }
}
