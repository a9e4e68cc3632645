//! `GET /containers/json`: docker ps.

use crate::api::App;
use crate::api::endpoints;
use crate::api::error::{ApiError, ApiResult};
use crate::api::query::{Filters, Params};
use crate::api::since::{between, in_words};
use axum::Json;
use axum::extract::State;
use ireko_engine::{ContainerRecord, Engine, HealthStatus, NetworkRecord, RunState};
use jiff::Timestamp;
use regex_lite::Regex;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const FILTERS: &[&str] = &[
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name",
    "network", "publish", "since", "status", "volume",
];
const STATES: &[&str] =
    &["created", "restarting", "running", "removing", "paused", "exited", "dead"];

pub(crate) async fn list(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let filters = params.filters(FILTERS)?;
    let limit = params.number::<i64>("limit")?.and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.filter(|limit| *limit > 0);
    let wanted = Wanted::new(&app.engine, filters, &params, limit).await?;
    let mut shown = Vec::new();
    for record in
        app.engine.containers().into_iter().filter(|record| wanted.matches(&app.engine, record))
    {
        if limit.is_some_and(|limit| shown.len() == limit) {
            break;
        }
        let sizes = match params.flag("size") {
            true => Some(sizes(&app.engine, &record).await?),
            false => None,
        };
        shown.push(summary(&app.engine, &record, sizes));
    }
    Ok(Json(Value::Array(shown)))
}

/// Bytes of a container's own disk, and of all it stands on beside.
pub(crate) async fn sizes(engine: &Engine, record: &ContainerRecord) -> ApiResult<(u64, u64)> {
    let own = engine.scratch_bytes(&record.id).await?;
    // Its image may have been removed by force.
    let image = engine.image(&record.image_id).await.map_or(0, |image| image.total_bytes);
    Ok((own, own + image))
}

/// Which containers are wanted.
struct Wanted {
    filters: Filters,
    names: Vec<Regex>,
    images: BTreeSet<String>,
    all: bool,
    before: Option<Arc<ContainerRecord>>,
    since: Option<Arc<ContainerRecord>>,
}

impl Wanted {
    async fn new(
        engine: &Engine,
        filters: Filters,
        params: &Params,
        limit: Option<usize>,
    ) -> ApiResult<Self> {
        if let Some(state) =
            filters.values("status").iter().find(|state| !STATES.contains(&state.as_str()))
        {
            return Err(ApiError::bad_request(format!("invalid filter 'status={state}'")));
        }
        if let Some(code) =
            filters.values("exited").iter().find(|code| code.parse::<i32>().is_err())
        {
            return Err(ApiError::bad_request(format!("invalid filter 'exited={code}'")));
        }
        let names = filters.values("name").iter().map(|name| Regex::new(name));
        let names = names
            .collect::<Result<_, _>>()
            .map_err(|error| ApiError::bad_request(format!("invalid filter 'name': {error}")))?;
        let mut images = BTreeSet::new();
        for ancestor in filters.values("ancestor") {
            // An image that is not there has no containers.
            if let Ok(image) = engine.image(ancestor).await {
                images.insert(image.id.hex());
            }
        }
        let of = |name: &str| match filters.values(name).first() {
            Some(reference) => engine.inspect(reference).map(Some),
            None => Ok(None),
        };
        let (before, since) = (of("before")?, of("since")?);
        let all = params.flag("all")
            || limit.is_some()
            || ["status", "exited", "before", "since"]
                .iter()
                .any(|name| !filters.values(name).is_empty());
        Ok(Self { filters, names, images, all, before, since })
    }

    fn matches(&self, engine: &Engine, record: &ContainerRecord) -> bool {
        let filters = &self.filters;
        let status = record.status();
        let no_such_thing = |name: &str, value: &str| filters.any(name, |wanted| wanted == value);
        (self.all || record.is_running() || status == "restarting")
            && filters.any("id", |id| record.id.starts_with(id))
            && (self.names.is_empty()
                || self.names.iter().any(|name| {
                    name.is_match(&record.name) || name.is_match(&format!("/{}", record.name))
                }))
            && filters.labels(&record.labels)
            && filters.any("status", |wanted| wanted == status)
            && filters.any("exited", |code| {
                record.state == RunState::Exited
                    && record.last_run.as_ref().is_some_and(|run| run.exit_code.to_string() == code)
            })
            && (filters.values("ancestor").is_empty() || self.images.contains(&record.image_id))
            && self.before.as_ref().is_none_or(|other| record.created < other.created)
            && self.since.as_ref().is_none_or(|other| record.created > other.created)
            && filters.any("expose", |port| {
                record.spec.exposed_ports.iter().any(|exposed| {
                    exposed == port || exposed.split('/').next() == Some(port)
                })
            })
            // No container has any volumes.
            && filters.values("volume").is_empty()
            && filters.any("publish", |port| {
                record.published.iter().any(|one| {
                    let own = one.host.port().to_string();
                    own == port || format!("{own}/{}", one.protocol) == port
                })
            })
            && filters.any("health", |wanted| {
                wanted == record.health.as_ref().map_or("none", |health| health.status.word())
            })
            && no_such_thing("is-task", "false")
            && filters.any("network", |network| is_in(engine, record, network))
    }
}

/// Whether a container has a place in a network, by the network's name or id.
fn is_in(engine: &Engine, record: &ContainerRecord, network: &str) -> bool {
    let is_it = |found: &NetworkRecord| found.name == network || found.id.starts_with(network);
    match record.endpoints.is_empty() {
        true => network == network_mode(record),
        false => endpoints::of(engine, record).iter().any(|(_, found)| is_it(found)),
    }
}

/// The network's name as docker shows it.
pub(crate) fn network_mode(record: &ContainerRecord) -> &str {
    match record.spec.network.as_str() {
        "" | "default" => "bridge",
        name => name,
    }
}

pub(crate) fn summary(
    engine: &Engine,
    record: &ContainerRecord,
    sizes: Option<(u64, u64)>,
) -> Value {
    let mut shown = json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": record.spec.image,
        "ImageID": record.image_digest(),
        "Command": record.process.argv().join(" "),
        "Created": record.created.as_second(),
        "Ports": endpoints::port_list(record),
        "Labels": record.labels,
        "State": record.status(),
        "Status": status(record, Timestamp::now()),
        "HostConfig": { "NetworkMode": network_mode(record) },
        "NetworkSettings": { "Networks": endpoints::networks(engine, record, &[]) },
        "Mounts": [],
    });
    if let Some((own, all)) = sizes {
        shown["SizeRw"] = own.into();
        shown["SizeRootFs"] = all.into();
    }
    shown
}

/// `Up 3 seconds`, `Exited (137) 5 seconds ago`, `Created`.
pub(crate) fn status(record: &ContainerRecord, now: Timestamp) -> String {
    let since_end = record
        .last_run
        .as_ref()
        .and_then(|run| Some((run.exit_code, in_words(between(run.finished_at?, now)))));
    match &record.state {
        RunState::Running { started_at, paused, .. } => {
            let up = in_words(between(*started_at, now));
            match record.health.as_ref().map(|health| health.status) {
                _ if *paused => format!("Up {up} (Paused)"),
                Some(HealthStatus::Starting) => format!("Up {up} (health: starting)"),
                Some(status) => format!("Up {up} ({})", status.word()),
                None => format!("Up {up}"),
            }
        }
        RunState::Removing => "Removal In Progress".into(),
        RunState::Restarting => match since_end {
            Some((code, ago)) => format!("Restarting ({code}) {ago} ago"),
            None => "Restarting".into(),
        },
        RunState::Suspended => match since_end {
            Some((_, ago)) => format!("Suspended {ago} ago"),
            None => "Suspended".into(),
        },
        _ if record.status() == "created" => "Created".into(),
        _ => match since_end {
            Some((code, ago)) => format!("Exited ({code}) {ago} ago"),
            None => match &record.last_run {
                Some(run) => format!("Exited ({})", run.exit_code),
                None => "Exited".into(),
            },
        },
    }
}
