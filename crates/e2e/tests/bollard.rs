//! bollard, a client that knows nothing of us, at work.

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerConfig, ContainerCreateBody};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CommitContainerOptionsBuilder, CreateContainerOptionsBuilder,
    DownloadFromContainerOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptions, StartContainerOptions, StatsOptionsBuilder, StopContainerOptionsBuilder,
    UploadToContainerOptionsBuilder, WaitContainerOptions,
};
use futures_util::{Stream, StreamExt, TryStreamExt};
use ireko_e2e::World;
use ireko_e2e::slots::Vms;
use std::collections::HashMap;
use std::io::Read;
use tokio::io::AsyncWriteExt;

/// The container that is worked with.
const BOX: &str = "bollard-box";

#[tokio::test(flavor = "multi_thread")]
async fn bollard_finds_all_that_it_uses() {
    let world = World::new("bollard", Vms::One);
    world.ok(&["run", "--rm", "base", "true"]);
    let socket = world.socket();
    let docker = Docker::connect_with_unix(&socket, 300, bollard::API_DEFAULT_VERSION)
        .expect("a client")
        .negotiate_version()
        .await
        .expect("a version");
    let since = docker.info().await.expect("info").system_time.expect("a time");

    make(&docker, &["sh", "-c", "cat; cat /tmp/word; echo changed > /tmp/out; exec sleep 300"])
        .await;
    let packed = archive("word", b"from the archive\n");
    let options = UploadToContainerOptionsBuilder::default().path("/tmp").build();
    docker
        .upload_to_container(BOX, Some(options), bollard::body_full(packed.into()))
        .await
        .expect("an upload");
    let options =
        AttachContainerOptionsBuilder::default().stdin(true).stdout(true).stream(true).build();
    let mut attached = docker.attach_container(BOX, Some(options)).await.expect("an attach");
    docker.start_container(BOX, None::<StartContainerOptions>).await.expect("a start");
    attached.input.write_all(b"typed\n").await.expect("input");
    attached.input.shutdown().await.expect("the end of the input");
    let mut said = String::new();
    while !said.contains("archive\n") {
        said += &attached.output.next().await.expect("more output").expect("output").to_string();
    }
    assert_eq!(said, "typed\nfrom the archive\n");

    assert_eq!(exec(&docker, &["cat", "/tmp/out"]).await, ("changed\n".to_owned(), 0));
    assert_eq!(exec(&docker, &["sh", "-c", "exit 7"]).await, (String::new(), 7));
    let listed = docker
        .list_containers(Some(
            ListContainersOptionsBuilder::default()
                .filters(&HashMap::from([("name", vec![BOX])]))
                .build(),
        ))
        .await
        .expect("a list");
    assert_eq!(listed.len(), 1);
    let samples: Vec<_> = docker
        .stats(BOX, Some(StatsOptionsBuilder::default().stream(true).build()))
        .take(2)
        .try_collect()
        .await
        .expect("statistics");
    let total = |sample: &bollard::models::ContainerStatsResponse| {
        sample.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage)
    };
    assert!(total(&samples[1]) >= total(&samples[0]) && total(&samples[0]).is_some());

    let options = DownloadFromContainerOptionsBuilder::default().path("/tmp/out").build();
    let packed = bytes(docker.download_from_container(BOX, Some(options))).await;
    let mut unpacked = tar::Archive::new(&packed[..]);
    let mut entry = unpacked.entries().expect("entries").next().expect("one").expect("an entry");
    let mut text = String::new();
    entry.read_to_string(&mut text).expect("text");
    assert_eq!(text, "changed\n");
    let changes = docker.container_changes(BOX).await.expect("changes").expect("some");
    assert!(changes.iter().any(|change| change.path == "/tmp/out"), "{changes:?}");

    let options = CommitContainerOptionsBuilder::default()
        .container(BOX)
        .repo("bollard/committed")
        .tag("v1")
        .build();
    let config = ContainerConfig {
        cmd: Some(["cat", "/tmp/out"].map(str::to_owned).to_vec()),
        ..ContainerConfig::default()
    };
    docker.commit_container(options, config).await.expect("a commit");
    let options = StopContainerOptionsBuilder::default().t(1).build();
    docker.stop_container(BOX, Some(options)).await.expect("a stop");
    remove(&docker).await;

    create(&docker, "bollard/committed:v1", None).await;
    docker.start_container(BOX, None::<StartContainerOptions>).await.expect("a start");
    let options = LogsOptionsBuilder::default().follow(true).stdout(true).stderr(true).build();
    let lines: Vec<LogOutput> =
        docker.logs(BOX, Some(options)).try_collect().await.expect("its log");
    assert_eq!(lines.iter().map(ToString::to_string).collect::<String>(), "changed\n");
    let ended = docker.wait_container(BOX, None::<WaitContainerOptions>).next().await;
    assert_eq!(ended.expect("an end").expect("a status").status_code, 0);
    let inspected = docker
        .inspect_container(BOX, None::<InspectContainerOptions>)
        .await
        .expect("what it is now");
    assert_eq!(inspected.state.and_then(|state| state.exit_code), Some(0));
    remove(&docker).await;
    docker
        .remove_image("bollard/committed:v1", None::<RemoveImageOptions>, None)
        .await
        .expect("the image goes");

    let options = EventsOptionsBuilder::default()
        .since(&since)
        .until(&docker.info().await.expect("info").system_time.expect("a time"))
        .filters(&HashMap::from([("type", vec!["container"])]))
        .build();
    let events: Vec<_> = docker.events(Some(options)).try_collect().await.expect("events");
    let actions: Vec<_> = events.iter().filter_map(|event| event.action.as_deref()).collect();
    for action in ["create", "start", "commit", "die", "stop", "destroy"] {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
}

async fn make(docker: &Docker, command: &[&str]) {
    create(docker, "base", Some(command.iter().map(|word| (*word).to_owned()).collect())).await;
}

async fn create(docker: &Docker, image: &str, cmd: Option<Vec<String>>) {
    let options = CreateContainerOptionsBuilder::default().name(BOX).build();
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        open_stdin: Some(cmd.is_some()),
        stdin_once: Some(cmd.is_some()),
        cmd,
        ..ContainerCreateBody::default()
    };
    docker.create_container(Some(options), body).await.expect("a container");
}

async fn remove(docker: &Docker) {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(BOX, Some(options)).await.expect("the container goes");
}

/// What a command printed, and its exit status.
async fn exec(docker: &Docker, command: &[&str]) -> (String, i64) {
    let options = CreateExecOptions {
        cmd: Some(command.to_vec()),
        attach_stdout: Some(true),
        ..CreateExecOptions::default()
    };
    let made = docker.create_exec(BOX, options).await.expect("an exec");
    let started = docker.start_exec(&made.id, None).await.expect("its start");
    let StartExecResults::Attached { output, .. } = started else { panic!("it is attached") };
    let said: Vec<LogOutput> = output.try_collect().await.expect("its output");
    let inspected = docker.inspect_exec(&made.id).await.expect("its end");
    (said.iter().map(ToString::to_string).collect(), inspected.exit_code.expect("an exit status"))
}

fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, content).expect("an entry");
    builder.into_inner().expect("an archive")
}

async fn bytes<B: AsRef<[u8]>, E: std::fmt::Debug>(
    stream: impl Stream<Item = Result<B, E>>,
) -> Vec<u8> {
    let pieces: Vec<B> = stream.try_collect().await.expect("a stream");
    pieces.iter().flat_map(|piece| piece.as_ref().to_vec()).collect()
}
