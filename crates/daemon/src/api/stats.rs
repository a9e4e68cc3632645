//! `GET /containers/{id}/stats`: what a container uses, once or every second.

use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::query::Params;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use ireko_engine::{Engine, ProcessUsage, Sample, Traffic};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::sleep;

/// Between two samples.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn stats(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<Response> {
    let first = app.engine.sample(&id).await?;
    let answer = |body| ([(CONTENT_TYPE, "application/json")], body).into_response();
    if params.flag_or("stream", true) {
        let stream = Stream { engine: app.engine, last: None, next: Some(first) };
        return Ok(answer(Body::from_stream(futures_util::stream::unfold(stream, Stream::next))));
    }
    if params.flag("one-shot") || first.usage.is_none() {
        return Ok(answer(Body::from(line(&first, None))));
    }
    sleep(PAUSE).await;
    let second = app.engine.sample(&first.record.id).await?;
    Ok(answer(Body::from(line(&second, Some(&first)))))
}

/// Samples without end: until the client goes, or the container.
struct Stream {
    engine: Engine,
    last: Option<Sample>,
    next: Option<Sample>,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let sample = match (self.next.take(), &self.last) {
            (Some(first), _) => first,
            (None, Some(last)) => {
                sleep(PAUSE).await;
                self.engine.sample(&last.record.id).await.ok()?
            }
            (None, None) => return None,
        };
        let line = line(&sample, self.last.as_ref());
        self.last = Some(sample);
        Some((Ok(Bytes::from(line)), self))
    }
}

fn line(sample: &Sample, before: Option<&Sample>) -> String {
    format!("{}\n", shown(sample, before))
}

/// Docker's word for a time that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn shown(sample: &Sample, before: Option<&Sample>) -> Value {
    let mut shown = json!({
        "name": format!("/{}", sample.record.name),
        "id": sample.record.id,
        "read": sample.at.to_string(),
        "preread": before.map_or_else(|| NEVER.to_owned(), |sample| sample.at.to_string()),
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": {},
        "blkio_stats": {},
        "memory_stats": {},
        "cpu_stats": cpu(sample),
        "precpu_stats": before.map_or_else(no_cpu, cpu),
    });
    let Some(usage) = &sample.usage else { return shown };
    shown["pids_stats"] = json!({ "current": usage.tasks });
    shown["memory_stats"] = json!({
        "usage": usage.memory_bytes,
        "limit": sample.memory_limit,
        "stats": { "inactive_file": usage.inactive_file_bytes },
    });
    shown["blkio_stats"] = json!({ "io_service_bytes_recursive": disks(usage) });
    if !usage.interfaces.is_empty() {
        let devices = usage.interfaces.iter().map(|device| {
            let mut counters = Map::new();
            add(&mut counters, "rx", &device.received);
            add(&mut counters, "tx", &device.sent);
            (device.name.clone(), Value::Object(counters))
        });
        shown["networks"] = Value::Object(devices.collect());
    }
    shown
}

fn cpu(sample: &Sample) -> Value {
    let Some(usage) = &sample.usage else { return no_cpu() };
    json!({
        "cpu_usage": {
            "total_usage": usage.cpu_nanos,
            "usage_in_kernelmode": usage.kernel_nanos,
            "usage_in_usermode": usage.user_nanos,
        },
        "system_cpu_usage": usage.machine_nanos,
        "online_cpus": sample.cpus,
        "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
    })
}

fn no_cpu() -> Value {
    json!({
        "cpu_usage": { "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0 },
        "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
    })
}

fn disks(usage: &ProcessUsage) -> Vec<Value> {
    let of = |major, minor, op: &str, value| json!({ "major": major, "minor": minor, "op": op, "value": value });
    let both = usage.disks.iter().flat_map(|disk| {
        [
            of(disk.major, disk.minor, "read", disk.read_bytes),
            of(disk.major, disk.minor, "write", disk.written_bytes),
        ]
    });
    both.collect()
}

fn add(counters: &mut Map<String, Value>, way: &str, traffic: &Traffic) {
    let Traffic { bytes, packets, errors, dropped } = *traffic;
    for (name, value) in
        [("bytes", bytes), ("packets", packets), ("errors", errors), ("dropped", dropped)]
    {
        counters.insert(format!("{way}_{name}"), value.into());
    }
}
