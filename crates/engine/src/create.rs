//! Making a container: its name, its scratch disk, its record.

use crate::blocking::{blocking, to_its_end};
use crate::container::{Container, config_path};
use crate::data_disks::{self, NewDisk};
use crate::durable;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::health;
use crate::machine;
use crate::names::{check_name, random_hex, random_name};
use crate::networks::state::{EndpointRecord, EndpointSpec};
use crate::progress::{Watcher, progress};
use crate::signal::parse_signal;
use crate::spec::{ContainerSpec, LEAST_MEMORY, Resources};
use crate::state::{ContainerRecord, ProcessRecord, RunState, VERSION};
use crate::store::oci::{MachineConfig, RunConfig};
use crate::store::{ImageInfo, Kind};
use jiff::Timestamp;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

/// Refuses words that no process can be given.
pub(crate) fn check_words<'a>(words: impl IntoIterator<Item = &'a String>) -> Result<()> {
    match words.into_iter().find(|word| word.contains('\0')) {
        Some(word) => Err(Error::bad_parameter(format!(
            "{:?} has a zero byte in it: no process can be given that",
            &word[..word.floor_char_boundary(64)]
        ))),
        None => Ok(()),
    }
}

impl Engine {
    /// Makes a container; returns its id. `name` is random where none is given. `endpoints` are
    /// wishes for `spec`'s network and further ones.
    ///
    /// Errors: the name is malformed or in use, the image is not there, nothing says what to run,
    /// or the machine has less than what was asked for. The built-in base image is made first
    /// where it is asked for and not there yet.
    pub async fn create(
        &self,
        name: Option<String>,
        spec: ContainerSpec,
        endpoints: Vec<EndpointSpec>,
    ) -> Result<String> {
        let engine = self.clone();
        // A client that goes away ends the copying of disks.
        let (watcher, _watched) = progress();
        to_its_end(async move { engine.create_whole(name, spec, endpoints, watcher).await }).await
    }

    async fn create_whole(
        &self,
        name: Option<String>,
        mut spec: ContainerSpec,
        endpoints: Vec<EndpointSpec>,
        watcher: Watcher,
    ) -> Result<String> {
        check_resources(&spec.resources)?;
        let ContainerSpec { command, entrypoint, env, working_dir, user, .. } = &spec;
        let lists = command.iter().chain(entrypoint).flatten();
        check_words(lists.chain(env).chain(working_dir).chain(user))?;
        let endpoints = self.resolve_endpoints(&spec.network, endpoints)?;
        if endpoints.is_empty() && !spec.publish.is_empty() {
            return Err(Error::bad_parameter(
                "conflicting options: port publishing and the container type network mode",
            ));
        }
        if let Some(signal) = &spec.stop_signal {
            parse_signal(signal)?;
        }
        let image = self.image_to_run(&spec.image).await?;
        let runs = match image.kind {
            Kind::App => {
                machine::check_absent(&spec)?;
                Runs::Process(resolve_process(&spec, &image.config.document().config)?)
            }
            Kind::Machine => {
                machine::check(&spec)?;
                self.check_name_servers(&spec, &endpoints)?;
                // Whoever attaches may type on its serial line.
                (spec.stdio.open_stdin, spec.stdio.stdin_once) = (true, false);
                Runs::Machine(self.machine_for(&spec, &image).await?)
            }
        };
        let hardware = match &runs {
            Runs::Process(_) => None,
            Runs::Machine(machine) => Some(machine.hardware),
        };
        let disks = self.fill_disks(&image, &spec.disks, hardware, watcher).await?;
        let id = random_hex(64);
        let name = self.take_name(name, &id)?;
        let made = self.make(&id, &name, (spec, endpoints), (image, disks), runs).await;
        if made.is_err() {
            self.release_name(&name);
        }
        let container = made?;
        self.register(&container);
        self.emit(&container.record(), "create", &[]);
        Ok(id)
    }

    fn take_name(&self, given: Option<String>, id: &str) -> Result<String> {
        if let Some(given) = given.filter(|name| !name.is_empty()) {
            let name = check_name(&given)?;
            self.reserve_name(name, id)?;
            return Ok(name.to_owned());
        }
        for attempt in 0..100 {
            let name = random_name(attempt);
            if self.reserve_name(&name, id).is_ok() {
                return Ok(name);
            }
        }
        Err(Error::internal("no free random name was found: give the container a name"))
    }

    async fn make(
        &self,
        id: &str,
        name: &str,
        (mut spec, endpoints): (ContainerSpec, Vec<EndpointRecord>),
        (image, disks): (ImageInfo, Vec<NewDisk>),
        runs: Runs,
    ) -> Result<Arc<Container>> {
        let folder = self.containers_folder().join(id);
        let store = Arc::clone(&self.store);
        let image_config = &image.config.document().config;
        for port in &image_config.exposed_ports {
            if !spec.exposed_ports.contains(port) {
                spec.exposed_ports.push(port.clone());
            }
        }
        let health = health::resolve(spec.healthcheck.as_ref(), image_config)?;
        let mut labels = image_config.labels.clone();
        labels.extend(spec.labels.clone());
        let (process, machine) = match runs {
            Runs::Process(process) => (process, None),
            Runs::Machine(machine) => (ProcessRecord::of_machine(), Some(machine)),
        };
        let mut record = ContainerRecord {
            version: VERSION,
            id: id.to_owned(),
            name: name.to_owned(),
            created: Timestamp::now(),
            spec,
            image_id: image.id.hex(),
            scratch: String::new(),
            disks: Vec::new(),
            process,
            machine,
            health,
            labels,
            state: RunState::Created,
            origin: None,
            last_run: None,
            ended_runs: 0,
            restart_count: 0,
            stopped_by_user: false,
            endpoints,
            published: Vec::new(),
            vm_resources: Resources::default(),
        };
        blocking(move || {
            DirBuilder::new()
                .mode(0o700)
                .create(&folder)
                .attempt(|| format!("make {}", folder.display()))?;
            let made =
                store.create_scratch(&image.id, &folder).map_err(Error::from).and_then(|scratch| {
                    record.scratch = file_name(&scratch)?;
                    record.disks = data_disks::make(&store, &image, &folder, disks)?;
                    durable::write_json(&config_path(&folder), &record)?;
                    durable::sync_folder(folder.parent().unwrap_or(&folder))?;
                    Ok(Container::new(folder.clone(), record))
                });
            if made.is_err()
                && let Err(error) = fs::remove_dir_all(&folder)
            {
                tracing::warn!(%error, folder = %folder.display(), "a folder is left over");
            }
            made
        })
        .await
    }
}

/// What a container runs.
enum Runs {
    /// A process on the image's root file system.
    Process(ProcessRecord),
    /// The operating system on the image's disk.
    Machine(MachineConfig),
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned)
        .ok_or_else(|| Error::internal(format!("{} has no readable name", path.display())))
}

pub(crate) fn check_resources(resources: &Resources) -> Result<()> {
    if resources.memory.is_some_and(|bytes| bytes < LEAST_MEMORY) {
        return Err(Error::bad_parameter("Minimum memory limit allowed is 6MB"));
    }
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let asked = resources.cpu_millis.unwrap_or(1000);
    if asked > cpus as u64 * 1000 || asked < 10 {
        return Err(Error::bad_parameter(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    Ok(())
}

/// What the container's own options and the image's make together, by docker's rules.
fn resolve_process(spec: &ContainerSpec, image: &RunConfig) -> Result<ProcessRecord> {
    let given = |list: &Option<Vec<String>>| list.clone().filter(|words| !words.is_empty());
    let (entrypoint, command) = match given(&spec.entrypoint) {
        Some(entrypoint) => {
            // A single empty word is docker's way to say "none".
            let none = entrypoint.iter().all(String::is_empty);
            (if none { Vec::new() } else { entrypoint }, spec.command.clone().unwrap_or_default())
        }
        None => {
            (image.entrypoint.clone(), given(&spec.command).unwrap_or_else(|| image.cmd.clone()))
        }
    };
    if entrypoint.is_empty() && command.is_empty() {
        return Err(Error::bad_parameter("no command specified"));
    }
    let or_images = |given: &Option<String>, images: &str| match given {
        Some(text) if !text.is_empty() => text.clone(),
        _ => images.to_owned(),
    };
    let working_dir = match or_images(&spec.working_dir, &image.working_dir) {
        empty if empty.is_empty() => "/".to_owned(),
        absolute if absolute.starts_with('/') => absolute,
        relative => {
            return Err(Error::bad_parameter(format!(
                "the working directory '{relative}' is invalid, it needs to be an absolute path"
            )));
        }
    };
    Ok(ProcessRecord {
        entrypoint,
        command,
        env: configured_env(&image.env, &spec.env),
        working_dir,
        user: or_images(&spec.user, &image.user),
        stop_signal: match or_images(&spec.stop_signal, &image.stop_signal) {
            empty if empty.is_empty() => "SIGTERM".to_owned(),
            signal => signal,
        },
    })
}

/// What a container's configuration says: as docker's, it still has the names of variables that there are
/// to be none of.
fn configured_env(image: &[String], own: &[String]) -> Vec<String> {
    let mut env = merge_env(image, own);
    env.extend(own.iter().filter(|entry| !entry.contains('=')).cloned());
    env
}

/// `base` with `over` on top: same names are replaced in place, a name without `=` is taken out.
pub(crate) fn merge_env(base: &[String], over: &[String]) -> Vec<String> {
    let mut merged = base.to_vec();
    for entry in over {
        let name = entry.split('=').next().unwrap_or_default();
        let found = merged.iter().position(|one| one.split('=').next() == Some(name));
        match (found, entry.contains('=')) {
            (Some(at), true) => merged[at] = entry.clone(),
            (Some(at), false) => drop(merged.remove(at)),
            (None, true) => merged.push(entry.clone()),
            (None, false) => {}
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image() -> RunConfig {
        RunConfig {
            entrypoint: words("/entry -x"),
            cmd: words("serve"),
            env: words("PATH=/bin A=1"),
            working_dir: "/srv".into(),
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(entrypoint: Option<&str>, command: Option<&str>, expected: &str) {
        let spec = ContainerSpec {
            entrypoint: entrypoint.map(|text| vec![text.to_owned()]),
            command: command.map(words),
            ..Default::default()
        };
        let process = resolve_process(&spec, &image()).unwrap();
        assert_eq!(process.argv(), words(expected));
    }

    #[test]
    fn entrypoint_and_command_come_together_as_docker_has_it() {
        check(None, None, "/entry -x serve");
        check(None, Some("ls -l"), "/entry -x ls -l");
        check(Some("sh"), None, "sh");
        check(Some("sh"), Some("-c true"), "sh -c true");
        check(Some(""), Some("ls"), "ls");
        let nothing = ContainerSpec { entrypoint: Some(vec![String::new()]), ..Default::default() };
        assert!(resolve_process(&nothing, &image()).is_err());
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        let spec = ContainerSpec { working_dir: Some("a/b".into()), ..Default::default() };
        assert!(resolve_process(&spec, &image()).is_err());
        assert_eq!(resolve_process(&Default::default(), &image()).unwrap().working_dir, "/srv");
    }

    #[test]
    fn variables_are_replaced_added_and_taken_out() {
        let merged = merge_env(&words("PATH=/bin A=1 B=2"), &words("A=9 B C=3 D"));
        assert_eq!(merged, words("PATH=/bin A=9 C=3"));
    }

    #[test]
    fn more_than_the_machine_has_is_refused() {
        let check = |memory, cpu_millis| {
            check_resources(&Resources { memory, cpu_millis, ..Resources::default() })
        };
        assert!(check(None, None).is_ok());
        assert!(check(Some(LEAST_MEMORY - 1), None).is_err());
        assert!(check(None, Some(1_000_000)).is_err());
        assert!(check(None, Some(1)).is_err());
    }
}
