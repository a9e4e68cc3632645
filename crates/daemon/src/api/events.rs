//! `GET /events`: what happened, replayed and live, one JSON object a line.

use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::query::{Filters, Params};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use ireko_engine::{Event, EventStream, Subject};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

pub(crate) async fn events(State(app): State<App>, params: Params) -> ApiResult<Response> {
    let filters = params.filters(FILTERS)?;
    let (since, until) = (params.time("since")?, params.time("until")?);
    let (kept, live) = app.engine.events();
    let kept = match since {
        Some(since) => kept.into_iter().filter(|event| event.at >= since).collect(),
        None => VecDeque::new(),
    };
    let report = Report { kept, live, filters, until };
    let lines = futures_util::stream::unfold(report, Report::next);
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

struct Report {
    kept: VecDeque<Arc<Event>>,
    live: EventStream,
    filters: Filters,
    until: Option<Timestamp>,
}

impl Report {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            let event = self.event().await?;
            if self.until.is_some_and(|until| event.at > until) {
                return None;
            }
            if is_wanted(&event, &self.filters) {
                let line = format!("{}\n", shown(&event));
                return Some((Ok(Bytes::from(line)), self));
            }
        }
    }

    async fn event(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.kept.pop_front() {
            return Some(event);
        }
        let Some(until) = self.until else { return self.live.next().await };
        let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::time::timeout(left, self.live.next()).await.ok().flatten()
    }
}

fn is_wanted(event: &Event, filters: &Filters) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    let is_named = |wanted: &str| {
        event.id.starts_with(wanted) || attribute("name") == wanted.trim_start_matches('/')
    };
    let action = event.action.split(':').next().unwrap_or_default();
    filters.any("type", |kind| kind == event.subject.word())
        && filters.any("event", |wanted| wanted == action || wanted == event.action)
        && filters
            .any("container", |wanted| event.subject == Subject::Container && is_named(wanted))
        && filters.any("image", |wanted| match event.subject {
            Subject::Container => is_image(attribute("image"), wanted),
            Subject::Image => is_named(wanted) || is_image(attribute("name"), wanted),
            Subject::Network => false,
        })
        && filters
            .any("network", |wanted| event.subject == Subject::Network && is_named(wanted))
        && filters.any("scope", |scope| scope == "local")
        && filters.labels(&event.attributes)
        // Nothing here happens to any of these.
        && ["config", "daemon", "node", "plugin", "secret", "service", "volume"]
            .iter()
            .all(|other| filters.values(other).is_empty())
}

/// `base` means `base:latest`, and the other way round.
fn is_image(name: &str, wanted: &str) -> bool {
    let bare = |text: &str| text.strip_suffix(":latest").unwrap_or(text).to_owned();
    bare(name) == bare(wanted)
}

fn shown(event: &Event) -> Value {
    let mut shown = json!({
        "Type": event.subject.word(),
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.at.as_second(),
        "timeNano": i64::try_from(event.at.as_nanosecond()).unwrap_or(i64::MAX),
    });
    if event.subject != Subject::Network {
        shown["status"] = event.action.clone().into();
        shown["id"] = event.id.clone().into();
    }
    if event.subject == Subject::Container {
        shown["from"] = event.attributes.get("image").cloned().into();
    }
    shown
}
