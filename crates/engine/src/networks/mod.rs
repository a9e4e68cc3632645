//! Networks: made, found, removed; which addresses their containers have.
//!
//! ```text
//!   networks/<id>/network.json     the record
//!                 switch.json      the plan its switch was last started with
//!                 switch.log       what the switch said
//! ```
//!
//! A network is a record; while one of its containers runs there is a [`switch`] process too. A
//! container's own part, its endpoints, is in the container's record; [`wiring`] brings both
//! together when it starts.

pub(crate) mod bridge;
pub(crate) mod connect;
pub(crate) mod endpoints;
pub(crate) mod reach;
pub(crate) mod state;
pub(crate) mod subnet;
pub(crate) mod switch;
pub(crate) mod wiring;

use crate::blocking::{blocking, lock, to_its_end};
use crate::durable;
use crate::engine::{Engine, Settings};
use crate::error::{Attempt, Error, ErrorKind, Result};
use crate::names::random_hex;
use crate::state::ContainerRecord;
use ireko_protocol::network::Endpoint;
use ireko_protocol::network::{Mode, Published};
use jiff::Timestamp;
use reach::PortStream;
use state::{EndpointRecord, Fabric, NetworkRecord, VERSION};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use subnet::Subnet;
use switch::{Setting, Switch};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// The network of containers that name none.
pub const DEFAULT: &str = "bridge";
/// Names that are not to be given to networks.
const RESERVED: [&str; 4] = [DEFAULT, "default", "host", "none"];
const MTU: &str = "com.docker.network.driver.mtu";
const HOST_LOOPBACK: &str = "dev.ireko.network.host_loopback";
/// As docker's macvlan networks call the device that they are on.
const PARENT: &str = "parent";
/// Of a network that ends at its gateway, whose host cuts what it sends as the way outside takes it:
/// large, since an emulated guest pays for each packet more than for its bytes.
const DEFAULT_MTU: u16 = 9000;
/// Of one that goes on outside.
const USUAL_MTU: u16 = 1500;
/// Time for a guest to take a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// A network as it is asked for.
#[derive(Clone, Debug, Default)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// `bridge`, or one of Ireko's own; empty is `bridge`.
    pub driver: String,
    /// It has no way outside.
    pub internal: bool,
    /// Its addresses; `None` is a free subnet.
    pub subnet: Option<Subnet>,
    /// Its gateway's address; `None` is the first.
    pub gateway: Option<Ipv4Addr>,
    /// Where addresses of containers come from that ask for none.
    pub ip_range: Option<Subnet>,
    /// The user's.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Addresses that no container is to have, each with what it is called.
    pub auxiliary: BTreeMap<String, Ipv4Addr>,
    /// Docker's `--attachable`.
    pub attachable: bool,
}

/// All networks.
#[derive(Debug)]
pub(crate) struct Networks {
    settings: Arc<Settings>,
    all: Mutex<BTreeMap<String, Arc<Network>>>,
    /// Held while a network is made or removed.
    changing: tokio::sync::Mutex<()>,
    /// Held while addresses are given out.
    pub(crate) addressing: tokio::sync::Mutex<()>,
}

/// One network.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) record: Arc<NetworkRecord>,
    connects: Connects,
}

/// What connects a network's VMs.
#[derive(Debug)]
enum Connects {
    Switch(Arc<Switch>),
    Bridge(String),
}

impl Network {
    /// Attaches a VM; where the host listens for it.
    pub(crate) async fn attach(&self, endpoint: Endpoint) -> Result<Vec<Published>> {
        match &self.connects {
            Connects::Switch(switch) => switch.attach(endpoint).await,
            Connects::Bridge(bridge) => {
                bridge::attach(&self.record, bridge, &endpoint).await?;
                Ok(Vec::new())
            }
        }
    }

    /// Lets a VM go; whether it was there.
    pub(crate) async fn detach(&self, container: &str) -> bool {
        match &self.connects {
            Connects::Switch(switch) => switch.detach(container).await,
            Connects::Bridge(_) => bridge::detach(&self.record, container).await,
        }
    }

    /// The switch that knows the network's containers by name.
    fn name_server(&self) -> Option<PathBuf> {
        match &self.connects {
            Connects::Switch(switch) if self.record.has_names() => Some(switch.socket()),
            Connects::Switch(_) | Connects::Bridge(_) => None,
        }
    }

    /// Connects to a container's TCP port: by the switch, which makes `socket` for it, or as any
    /// program of the host's.
    pub(crate) async fn connect(
        &self,
        container: &str,
        at: SocketAddrV4,
        socket: &Path,
    ) -> Result<PortStream> {
        let what = || format!("connect to {at}");
        match &self.connects {
            Connects::Switch(switch) => {
                switch.open(container, at.port(), socket).await?;
                Ok(Box::new(UnixStream::connect(socket).await.attempt(what)?))
            }
            Connects::Bridge(_) => {
                let connected = timeout(CONNECT, TcpStream::connect(at)).await;
                let late = |_| Err(std::io::ErrorKind::TimedOut.into());
                Ok(Box::new(connected.unwrap_or_else(late).attempt(what)?))
            }
        }
    }

    /// Whether a container takes a connection to this TCP port, which is tried once.
    pub(crate) async fn probe(&self, container: &str, at: SocketAddrV4) -> Result<bool> {
        match &self.connects {
            Connects::Switch(switch) => switch.probe(container, at.port()).await,
            Connects::Bridge(_) => Ok(bridge::probe(at).await),
        }
    }

    /// Takes over what a former daemon left: `endpoints` are those of containers that run.
    pub(crate) async fn take_over(&self, endpoints: Vec<Endpoint>) {
        match &self.connects {
            Connects::Switch(switch) => switch.take_over(endpoints).await,
            // Its devices need nobody.
            Connects::Bridge(_) => {}
        }
    }
}

impl Networks {
    /// Reads all records, and makes the default network where there is none.
    pub(crate) fn open(settings: Arc<Settings>) -> Result<Self> {
        let networks = Self {
            settings,
            all: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            addressing: tokio::sync::Mutex::default(),
        };
        let folder = networks.folder();
        let attempt = || format!("read the networks in {}", folder.display());
        fs::create_dir_all(&folder).attempt(attempt)?;
        for entry in fs::read_dir(&folder).attempt(attempt)? {
            let path = entry.attempt(attempt)?.path();
            match durable::read_json::<NetworkRecord>(&path.join("network.json"))? {
                Some(record) => networks.add(record.check_version()?),
                // A removal, or a creation, that was cut off.
                None => fs::remove_dir_all(&path).attempt(attempt)?,
            }
        }
        if networks.named(DEFAULT).is_none() {
            let spec = NetworkSpec { name: DEFAULT.to_owned(), ..NetworkSpec::default() };
            let record = networks.record(spec)?;
            networks.save(&record)?;
            networks.add(record);
        }
        Ok(networks)
    }

    fn folder(&self) -> PathBuf {
        self.settings.places.root.join("networks")
    }

    fn add(&self, record: NetworkRecord) {
        let setting = Setting {
            executable: self.settings.executable.clone(),
            root: self.settings.places.root.clone(),
            runtime: self.settings.places.runtime.clone(),
            folder: self.folder().join(&record.id),
        };
        let record = Arc::new(record);
        let connects = match &record.fabric {
            Fabric::Switch(mode) => {
                Connects::Switch(Switch::new(setting, Arc::clone(&record), *mode))
            }
            Fabric::Bridge { bridge } => Connects::Bridge(bridge.clone()),
        };
        lock(&self.all).insert(record.id.clone(), Arc::new(Network { record, connects }));
    }

    fn save(&self, record: &NetworkRecord) -> Result<()> {
        let folder = self.folder().join(&record.id);
        fs::create_dir(&folder).attempt(|| format!("make {}", folder.display()))?;
        durable::write_json(&folder.join("network.json"), record)?;
        durable::sync_folder(&self.folder())
    }

    pub(crate) fn list(&self) -> Vec<Arc<Network>> {
        lock(&self.all).values().cloned().collect()
    }

    fn named(&self, name: &str) -> Option<Arc<Network>> {
        lock(&self.all).values().find(|one| one.record.name == name).cloned()
    }

    /// The network of this id.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Network>> {
        let found = lock(&self.all).get(id).cloned();
        found.ok_or_else(|| Error::not_found(format!("network {id} not found")))
    }

    /// The network of this name, id or prefix of one.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Network>> {
        let reference = if reference == "default" { DEFAULT } else { reference };
        if let Some(network) = self.named(reference) {
            return Ok(network);
        }
        let all = lock(&self.all);
        let mut matches = all.values().filter(|one| one.record.id.starts_with(reference));
        match (matches.next(), matches.next()) {
            (Some(network), None) if !reference.is_empty() => Ok(Arc::clone(network)),
            (Some(_), Some(_)) if !reference.is_empty() => Err(Error::bad_parameter(format!(
                "network {reference} is ambiguous (more than one id begins so)"
            ))),
            _ => Err(Error::not_found(format!("network {reference} not found"))),
        }
    }

    /// What a spec comes to beside the networks there are.
    fn record(&self, spec: NetworkSpec) -> Result<NetworkRecord> {
        let Options { mtu, host_loopback, parent } = options(&spec.options)?;
        let fabric = fabric(&spec, parent, host_loopback)?;
        let mtu = mtu.unwrap_or(match fabric {
            Fabric::Switch(_) => DEFAULT_MTU,
            Fabric::Bridge { .. } => USUAL_MTU,
        });
        let taken: Vec<_> = self.list().iter().map(|one| one.record.subnet).collect();
        let subnet = match spec.subnet {
            Some(subnet) if taken.iter().any(|other| other.overlaps(subnet)) => {
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    "invalid pool request: Pool overlaps with other one on this address space",
                ));
            }
            Some(subnet) => subnet,
            None if spec.gateway.is_some()
                || spec.ip_range.is_some()
                || !spec.auxiliary.is_empty() =>
            {
                return Err(Error::bad_parameter(
                    "a gateway, an IP range or an auxiliary address takes a subnet: give it with --subnet",
                ));
            }
            None => {
                let taken = [taken, subnet::of_host()].concat();
                subnet::free(&taken).ok_or_else(|| {
                    Error::internal(
                        "could not find an available, non-overlapping IPv4 address pool among \
                         the defaults to assign to the network",
                    )
                    .hint("name one by --subnet, or remove networks: docker network prune")
                })?
            }
        };
        let first = Ipv4Addr::from_bits(subnet.first().to_bits() + 1);
        let gateway = spec.gateway.unwrap_or(first);
        let is_somebodys = |address| address != subnet.first() && address != subnet.last();
        if !subnet.contains(gateway) || !is_somebodys(gateway) {
            return Err(Error::bad_parameter(format!(
                "invalid gateway {gateway}: it is not an address of the subnet {subnet}"
            )));
        }
        if let Some(range) = spec.ip_range.filter(|range| !subnet.holds(*range)) {
            return Err(Error::bad_parameter(format!(
                "invalid ip-range {range}: it is not inside the subnet {subnet}"
            )));
        }
        if let Some((name, address)) =
            spec.auxiliary.iter().find(|(_, address)| !subnet.contains(**address))
        {
            return Err(Error::bad_parameter(format!(
                "invalid auxiliary address {name}={address}: it is not inside the subnet {subnet}"
            )));
        }
        Ok(NetworkRecord {
            version: VERSION,
            id: random_hex(64),
            name: spec.name,
            created: Timestamp::now(),
            driver: if spec.driver.is_empty() { "bridge".to_owned() } else { spec.driver },
            fabric,
            internal: spec.internal,
            subnet,
            user_subnet: spec.subnet.is_some(),
            gateway,
            ip_range: spec.ip_range,
            mtu,
            host_loopback,
            labels: spec.labels,
            options: spec.options,
            auxiliary: spec.auxiliary,
            attachable: spec.attachable,
        })
    }
}

fn fabric(spec: &NetworkSpec, parent: Option<String>, host_loopback: bool) -> Result<Fabric> {
    if spec.driver == "bridged" {
        return bridged(spec, parent, host_loopback);
    }
    if parent.is_some() {
        return Err(Error::bad_parameter(format!(
            "the network option {PARENT} names the bridge of a bridged network: --driver bridged"
        )));
    }
    let mode = match spec.driver.as_str() {
        "" | "bridge" | "natnet" if spec.internal => Mode::Hostonly,
        "" | "bridge" | "natnet" => Mode::Natnet,
        "nat" if spec.internal => {
            return Err(Error::bad_parameter(
                "a nat network is nothing but a way outside: it cannot be internal",
            ));
        }
        "nat" => Mode::Nat,
        "hostonly" => Mode::Hostonly,
        "internal" => Mode::Internal,
        "host" | "null" | "none" => {
            return Err(Error::bad_parameter(format!(
                "only one instance of \"{}\" network is allowed",
                spec.driver
            )));
        }
        other => {
            return Err(Error::not_found(format!(
                "could not find plugin {other} in v1 plugin registry: plugin not found"
            ))
            .hint("Ireko's drivers are bridge (natnet), nat, hostonly, internal and bridged"));
        }
    };
    Ok(Fabric::Switch(mode))
}

fn bridged(spec: &NetworkSpec, parent: Option<String>, host_loopback: bool) -> Result<Fabric> {
    let Some(bridge) = parent else {
        return Err(Error::bad_parameter("a bridged network takes a bridge of the host")
            .hint(format!("name it: --opt {PARENT}=br0")));
    };
    bridge::check(&bridge)?;
    if spec.internal || host_loopback {
        return Err(Error::bad_parameter(
            "a bridged network is what its bridge is: it cannot be internal, and the host's loopback \
             address is out of its reach",
        ));
    }
    match spec.subnet {
        Some(_) => Ok(Fabric::Bridge { bridge }),
        None => Err(Error::bad_parameter(
            "a bridged network has the addresses of the network that its bridge is in",
        )
        .hint(
            "name them by --subnet and --gateway, and by --ip-range those that nobody else gives",
        )),
    }
}

struct Options {
    mtu: Option<u16>,
    host_loopback: bool,
    parent: Option<String>,
}

fn options(options: &BTreeMap<String, String>) -> Result<Options> {
    let mut read = Options { mtu: None, host_loopback: false, parent: None };
    for (name, value) in options {
        let wrong = || Error::bad_parameter(format!("invalid value for option {name}: {value:?}"));
        match name.as_str() {
            MTU => {
                let mtu = value.parse().ok().filter(|mtu| (576..=65521).contains(mtu));
                read.mtu = Some(mtu.ok_or_else(wrong)?);
            }
            HOST_LOOPBACK => read.host_loopback = value.parse().map_err(|_| wrong())?,
            PARENT => read.parent = Some(value.clone()),
            _ => {
                return Err(Error::unsupported(format!(
                    "Ireko does not support the network option {name}: there are {MTU}, \
                     {HOST_LOOPBACK} and {PARENT}"
                )));
            }
        }
    }
    Ok(read)
}

impl Engine {
    /// Every network, by name.
    pub fn networks(&self) -> Vec<Arc<NetworkRecord>> {
        let mut all: Vec<_> =
            self.networks.list().iter().map(|one| Arc::clone(&one.record)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// One network by name, id or prefix of it.
    pub fn network(&self, reference: &str) -> Result<Arc<NetworkRecord>> {
        Ok(Arc::clone(&self.networks.find(reference)?.record))
    }

    /// The containers that have a place in a network, with it.
    pub fn network_users(&self, id: &str) -> Vec<(Arc<ContainerRecord>, EndpointRecord)> {
        let user = |record: Arc<ContainerRecord>| {
            let endpoint = record.endpoints.iter().find(|one| one.network == id)?.clone();
            Some((record, endpoint))
        };
        self.containers().into_iter().filter_map(user).collect()
    }

    /// Makes a network; its id, and what its user should know.
    ///
    /// Errors: the name is in use, the subnet overlaps another's, none is free, or the network asks
    /// for what Ireko does not do.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<(String, Option<String>)> {
        let engine = self.clone();
        to_its_end(async move {
            let _one = engine.networks.changing.lock().await;
            check_name(&spec.name)?;
            if engine.networks.named(&spec.name).is_some() {
                return Err(Error::conflict(format!(
                    "network with name {} already exists",
                    spec.name
                )));
            }
            let networks = Arc::clone(&engine.networks);
            let record = blocking(move || {
                let record = networks.record(spec)?;
                networks.save(&record)?;
                networks.add(record.clone());
                Ok(record)
            })
            .await?;
            engine.emit_network(&record, "create", None);
            let hides = record.subnet.is_public() && !record.is_bridged();
            let warning = hides.then(|| {
                format!(
                    "{} has addresses of the public Internet: its containers cannot reach those \
                     outside",
                    record.subnet
                )
            });
            Ok((record.id, warning))
        })
        .await
    }

    /// Removes a network that no running container uses.
    ///
    /// Errors where one does, or the network is there by itself.
    pub async fn remove_network(&self, reference: &str) -> Result<()> {
        let network = self.networks.find(reference)?;
        let engine = self.clone();
        to_its_end(async move {
            let record = &network.record;
            let _one = engine.networks.changing.lock().await;
            if record.name == DEFAULT {
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    format!("{DEFAULT} is a pre-defined network and cannot be removed"),
                ));
            }
            let users = engine.network_users(&record.id);
            let active = users.iter().find(|(container, _)| container.vm().is_some());
            if let Some((container, endpoint)) = active {
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    format!(
                        "error while removing network: network {} has active endpoints \
                         (name:\"{}\" id:\"{}\")",
                        record.name,
                        container.name,
                        &endpoint.id[..12]
                    ),
                ));
            }
            let folder = engine.networks.folder().join(&record.id);
            lock(&engine.networks.all).remove(&record.id);
            blocking(move || {
                // Without its record the rest is nobody's, should this be cut off.
                durable::remove_file(&folder.join("network.json"))?;
                fs::remove_dir_all(&folder).attempt(|| format!("remove {}", folder.display()))
            })
            .await?;
            engine.emit_network(record, "destroy", None);
            Ok(())
        })
        .await
    }
}

/// As docker, anything that can be seen is a name; some have a meaning of their own.
fn check_name(name: &str) -> Result<()> {
    if RESERVED.contains(&name) {
        return Err(Error::new(
            ErrorKind::Forbidden,
            format!("operation is not permitted on predefined {name} network"),
        ));
    }
    let refusal = match name {
        "" => "it is empty",
        name if name.trim() != name => "it begins or ends with a space",
        name if name.chars().any(|c| c.is_control() || c == '/') => {
            "it has a slash or a character that cannot be seen"
        }
        name if name.len() > 128 => "it is longer than 128 bytes",
        _ => return Ok(()),
    };
    Err(Error::bad_parameter(format!("invalid name: {name:?}: {refusal}")))
}
