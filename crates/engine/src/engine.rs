//! The engine: all containers of one root, found by name, id or prefix.

use crate::blocking::{blocking, lock};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::events::{Event, EventStream, Events, Subject};
use crate::exec::Execs;
use crate::fold::Folder;
use crate::growth::Growths;
use crate::host_limits::HostLimits;
use crate::networks::Networks;
use crate::networks::state::NetworkRecord;
use crate::pool::Pool;
use crate::state::ContainerRecord;
use crate::store::Store;
use ireko_protocol::places::{MAX_SOCKET_PATH, Places};
use ireko_protocol::plan::AccelChoice;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What an engine is opened with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Root, cache and the folder of sockets.
    pub places: Places,
    /// How guests' CPUs are run.
    pub accel: AccelChoice,
    /// How many VMs stand by for containers of each shape.
    pub pool: usize,
    /// The host's control group in which each VM gets its own; without one, the slice around this
    /// process where that is ours.
    pub group: Option<PathBuf>,
    /// The executable that is started as `EXECUTABLE shim …`.
    pub executable: PathBuf,
}

/// All containers and images of one root. Cheap to clone; the caller holds the root's lock.
#[derive(Clone)]
pub struct Engine {
    pub(crate) settings: Arc<Settings>,
    pub(crate) store: Arc<Store>,
    pub(crate) folder: Folder,
    pub(crate) events: Arc<Events>,
    pub(crate) execs: Arc<Execs>,
    pub(crate) growths: Arc<Growths>,
    pub(crate) networks: Arc<Networks>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) limits: Arc<HostLimits>,
    /// Held while the base image is being made, so that it is made once.
    pub(crate) base: Arc<tokio::sync::Mutex<()>>,
    containers: Arc<Mutex<Registry>>,
}

/// Who is called what. A name is reserved before its container exists.
#[derive(Default)]
struct Registry {
    by_id: BTreeMap<String, Arc<Container>>,
    names: HashMap<String, String>,
}

impl Engine {
    /// Opens the root, finishes or undoes what a former daemon left, and takes over its VMs.
    ///
    /// Errors where the root's path is too long for sockets, or the store cannot be read.
    pub async fn open(settings: Settings) -> Result<Self> {
        let socket = settings.places.vm_dir("0123456789ab").join("agent.sock");
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(Error::bad_parameter(format!(
                "the path {} is too long for a socket: set XDG_RUNTIME_DIR to a shorter folder",
                socket.display()
            )));
        }
        let told = settings.group.clone();
        let limits = blocking(move || HostLimits::find(told.as_deref())).await?;
        let root = settings.places.root.clone();
        let store = blocking(move || Ok(Store::open(&root)?)).await?;
        let (store, settings) = (Arc::new(store), Arc::new(settings));
        let of_networks = Arc::clone(&settings);
        let networks = blocking(move || Networks::open(of_networks)).await?;
        let engine = Self {
            pool: Arc::new(Pool::new(settings.pool)),
            limits: Arc::new(limits),
            settings,
            networks: Arc::new(networks),
            folder: Folder::start(&store),
            store,
            events: Arc::new(Events::new()),
            execs: Arc::default(),
            growths: Arc::default(),
            base: Arc::default(),
            containers: Arc::default(),
        };
        engine.clear_spares().await;
        engine.recover().await?;
        engine.take_over_switches().await;
        engine.verify_templates();
        Ok(engine)
    }

    /// Root, cache and the folder of sockets.
    pub fn places(&self) -> &Places {
        &self.settings.places
    }

    /// Every container, newest first.
    pub fn containers(&self) -> Vec<Arc<ContainerRecord>> {
        let mut all: Vec<_> = self.all_containers().iter().map(|c| c.record()).collect();
        all.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// One container by id, unique prefix of it, name or `/name`.
    pub fn inspect(&self, reference: &str) -> Result<Arc<ContainerRecord>> {
        Ok(self.find(reference)?.record())
    }

    /// The events kept, and all that follow.
    pub fn events(&self) -> (Vec<Arc<Event>>, EventStream) {
        self.events.subscribe()
    }
}

impl Engine {
    pub(crate) fn containers_folder(&self) -> PathBuf {
        self.store.containers().to_owned()
    }

    pub(crate) fn all_containers(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).by_id.values().cloned().collect()
    }

    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Container>> {
        let registry = lock(&self.containers);
        let name = reference.strip_prefix('/').unwrap_or(reference);
        let by_name = registry.names.get(name);
        if let Some(container) =
            by_name.or(Some(&name.to_owned())).and_then(|id| registry.by_id.get(id))
        {
            return Ok(Arc::clone(container));
        }
        let mut matches = registry
            .by_id
            .range(name.to_owned()..)
            .take_while(|(id, _)| !name.is_empty() && id.starts_with(name));
        match (matches.next(), matches.next()) {
            (Some((_, container)), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => Err(Error::bad_parameter(format!(
                "multiple IDs found with provided prefix: {name}"
            ))),
            _ => Err(Error::not_found(format!("No such container: {reference}"))),
        }
    }

    /// Takes a name for a container that is being made or renamed.
    pub(crate) fn reserve_name(&self, name: &str, id: &str) -> Result<()> {
        let mut registry = lock(&self.containers);
        if let Some(owner) = registry.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \
                 \"{owner}\". You have to remove (or rename) that container to be able to reuse \
                 that name."
            )));
        }
        registry.names.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// Gives a name back.
    pub(crate) fn release_name(&self, name: &str) {
        lock(&self.containers).names.remove(name);
    }

    /// Puts a container whose name is reserved into the registry.
    pub(crate) fn register(&self, container: &Arc<Container>) {
        lock(&self.containers).by_id.insert(container.id.clone(), Arc::clone(container));
    }

    /// Takes a container and its name out of the registry.
    pub(crate) fn unregister(&self, container: &Container) {
        let mut registry = lock(&self.containers);
        registry.by_id.remove(&container.id);
        registry.names.retain(|_, id| *id != container.id);
    }

    pub(crate) fn emit(&self, record: &ContainerRecord, action: &str, more: &[(&str, String)]) {
        let mut attributes = record.labels.clone();
        attributes.insert("image".into(), record.spec.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.events.emit(Event {
            subject: Subject::Container,
            action: action.to_owned(),
            id: record.id.clone(),
            attributes,
            at: Timestamp::now(),
        });
    }

    /// `container` is whom a `connect` or `disconnect` is about.
    pub(crate) fn emit_network(
        &self,
        record: &NetworkRecord,
        action: &str,
        container: Option<&str>,
    ) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), record.name.clone()),
            ("type".to_owned(), record.driver.clone()),
        ]);
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_owned())));
        self.events.emit(Event {
            subject: Subject::Network,
            action: action.to_owned(),
            id: record.id.clone(),
            attributes,
            at: Timestamp::now(),
        });
    }

    pub(crate) fn emit_image(&self, id: &str, action: &str, name: &str) {
        self.events.emit(Event {
            subject: Subject::Image,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes: BTreeMap::from([("name".to_owned(), name.to_owned())]),
            at: Timestamp::now(),
        });
    }
}
