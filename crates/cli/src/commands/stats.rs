//! `ireko stats`, `ireko container stats`.

use super::Context;
use crate::api::short_id;
use crate::client::Client;
use crate::error::{ErrorKind, Result};
use crate::exit::Exit;
use crate::output;
use crate::table::Table;
use crate::target::Target;
use crate::words::{binary_size, size};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Display a live stream of container(s) resource usage statistics
///
/// Without names those of all running containers. What a container uses is what its processes use of
/// their guest; of a whole operating system, what its virtual machine takes of the host.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Show all containers (default shows just running)
    #[arg(short, long, conflicts_with = "containers")]
    all: bool,

    /// Print the figures as JSON, one list for each sample
    #[arg(long)]
    json: bool,

    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,

    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,

    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sample {
    name: String,
    id: String,
    cpu_stats: Cpu,
    precpu_stats: Cpu,
    memory_stats: Memory,
    pids_stats: Pids,
    networks: BTreeMap<String, Traffic>,
    blkio_stats: Blocks,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cpu {
    cpu_usage: CpuUsage,
    system_cpu_usage: u64,
    online_cpus: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CpuUsage {
    total_usage: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Memory {
    usage: u64,
    limit: u64,
    stats: MemoryParts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MemoryParts {
    inactive_file: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pids {
    current: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Traffic {
    rx_bytes: u64,
    tx_bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Blocks {
    io_service_bytes_recursive: Option<Vec<Block>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block {
    op: String,
    value: u64,
}

/// One container's line.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
struct Line {
    id: String,
    name: String,
    /// Of one CPU, in hundredths.
    cpu_percent: f64,
    memory_bytes: u64,
    memory_limit: u64,
    memory_percent: f64,
    received_bytes: u64,
    sent_bytes: u64,
    read_bytes: u64,
    written_bytes: u64,
    processes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

/// Shows the figures once, or until the user has seen enough.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    loop {
        let lines = sample(&client, args).await?;
        if args.json {
            output::json(&lines)?;
        } else {
            let in_place = !args.no_stream && crate::terminal::stdout_is_terminal();
            // Up to the corner, and nothing of what stood there before.
            let clear = if in_place { "\x1b[H\x1b[J" } else { "" };
            output::print(format_args!("{clear}{}", table(&lines, args.no_trunc)))?;
        }
        if args.no_stream {
            return Ok(Exit::SUCCESS);
        }
    }
}

/// The daemon takes a second for each sample, as it needs two looks.
async fn sample(client: &Client, args: &Args) -> Result<Vec<Line>> {
    let named = !args.containers.is_empty();
    let wanted = match named {
        true => args.containers.clone(),
        false => {
            let target = Target::docker(["containers", "json"]).with_flag("all", args.all);
            let listed: Vec<Listed> = client.get(&target).await?;
            listed.into_iter().map(|one| one.id).collect()
        }
    };
    if wanted.is_empty() && !args.no_stream {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    let samples = wanted.iter().map(|container| async move {
        let target = Target::docker(["containers", container, "stats"]).with("stream", "0");
        client.get::<Sample>(&target).await
    });
    let mut lines = Vec::new();
    for sample in join_all(samples).await {
        match sample {
            Ok(sample) => lines.push(line(sample)),
            // One that was listed may be gone by now.
            Err(error) if !named && error.kind() == ErrorKind::Refused(404) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lines)
}

fn line(sample: Sample) -> Line {
    let Sample { cpu_stats: now, precpu_stats: before, memory_stats: memory, .. } = &sample;
    let used = now.cpu_usage.total_usage.saturating_sub(before.cpu_usage.total_usage);
    let given = now.system_cpu_usage.saturating_sub(before.system_cpu_usage);
    let cpus = f64::from(now.online_cpus.max(1));
    let cpu = if given > 0 { used as f64 / given as f64 * cpus * 100.0 } else { 0.0 };
    let bytes = memory.usage.saturating_sub(memory.stats.inactive_file);
    let limit = memory.limit;
    let share = if limit > 0 { bytes as f64 / limit as f64 * 100.0 } else { 0.0 };
    let blocks = sample.blkio_stats.io_service_bytes_recursive.as_deref().unwrap_or_default();
    let moved = |op: &str| {
        let of = blocks.iter().filter(|block| block.op.eq_ignore_ascii_case(op));
        of.fold(0u64, |sum, block| sum.saturating_add(block.value))
    };
    let (read_bytes, written_bytes) = (moved("read"), moved("write"));
    let devices = sample.networks.values();
    let (received_bytes, sent_bytes) = devices.fold((0u64, 0u64), |(received, sent), device| {
        (received.saturating_add(device.rx_bytes), sent.saturating_add(device.tx_bytes))
    });
    Line {
        cpu_percent: cpu,
        memory_bytes: bytes,
        memory_limit: limit,
        memory_percent: share,
        received_bytes,
        sent_bytes,
        read_bytes,
        written_bytes,
        processes: sample.pids_stats.current,
        name: sample.name.trim_start_matches('/').to_owned(),
        id: sample.id,
    }
}

fn table(lines: &[Line], whole_ids: bool) -> Table {
    let mut table = Table::new([
        "CONTAINER ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET I/O",
        "BLOCK I/O",
        "PIDS",
    ]);
    for line in lines {
        let id = if whole_ids { &line.id } else { short_id(&line.id) };
        table.row([
            id.to_owned(),
            line.name.clone(),
            format!("{:.2}%", line.cpu_percent),
            format!("{} / {}", binary_size(line.memory_bytes), binary_size(line.memory_limit)),
            format!("{:.2}%", line.memory_percent),
            format!("{} / {}", size(line.received_bytes), size(line.sent_bytes)),
            format!("{} / {}", size(line.read_bytes), size(line.written_bytes)),
            line.processes.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_docker_s() {
        let text = r#"{"name":"/web","id":"0123456789abcdef",
            "cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":3000,"online_cpus":2},
            "precpu_stats":{"cpu_usage":{"total_usage":100},"system_cpu_usage":1000},
            "memory_stats":{"usage":3145728,"limit":4194304,"stats":{"inactive_file":1048576}},
            "networks":{"eth0":{"rx_bytes":1000,"tx_bytes":5}},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"read","value":7},{"op":"write","value":8}]},
            "pids_stats":{"current":3}}"#;
        let line = line(serde_json::from_str(text).unwrap());
        assert_eq!((line.cpu_percent, line.memory_percent), (20.0, 50.0));
        let shown = table(&[line], false).to_string();
        let row = "0123456789ab   web       20.00%    2MiB / 4MiB         50.00%    1kB / 5B   7B / 8B     3";
        assert_eq!(shown.lines().nth(1), Some(row), "{shown}");
        let stopped = r#"{"name":"/web","id":"00","pids_stats":{},"blkio_stats":{}}"#;
        let sample: Sample = serde_json::from_str(stopped).unwrap();
        assert_eq!(super::line(sample).cpu_percent, 0.0);
    }
}
