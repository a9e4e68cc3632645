//! The daemon: the Docker Engine API and Ireko's own on a unix socket, over the engine.
//!
//! ```text
//!   client ═HTTP═► server ─► dispatch ─► api::router ─► one handler ─► Engine
//!                 accepts,   version,     path → verb     converts JSON
//!                 seats      headers                      to spec and back
//! ```
//!
//! Handlers are thin: convert, one call of the engine, convert. Docker's JSON lives in `api` only.
//! Read in this order: this file (from options to exit), `server`, `dispatch`, `api`.
#![deny(unsafe_code)]
// Docker's objects have many fields, and `json!` recurses over each.
#![recursion_limit = "256"]

mod api;
mod dispatch;
mod logging;
mod options;
mod peer;
mod root_lock;
mod seats;
mod server;
mod socket;
mod unread;

pub use options::Options;

use crate::api::App;
use crate::dispatch::Dispatch;
use crate::options::host_path;
use crate::root_lock::RootLock;
use crate::seats::Seats;
use crate::socket::Socket;
use ireko_engine::{Engine, Settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fmt::Display;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Time for the daemon that has the root's lock to listen: it makes up for what was missed first. Or to give the lock back.
const WINNER: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Time for disk work that is under way when the daemon ends.
const LAST_WORK: Duration = Duration::from_secs(20);

/// Runs the daemon until SIGTERM, SIGINT or `POST /ireko/daemon/stop`; VMs run on.
///
/// Where another daemon has the root already, it waits until that one answers and ends quietly.
/// Reasons for a failure go to stderr.
pub fn main(options: Options) -> ExitCode {
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(reason)) => {
            tracing::error!(reason, "the daemon ends");
            eprintln!("ireko daemon: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Why the daemon cannot run: one sentence for people.
struct Failure(String);

impl Failure {
    fn of(what: impl Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    if options.background {
        // Fails only where we lead a session already, which is what was wanted.
        let _ = rustix::process::setsid();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::of("cannot start the runtime"))?;
    let Some(_held) = runtime.block_on(win(options))? else { return Ok(()) };
    let result = runtime.block_on(serve(options));
    runtime.shutdown_timeout(LAST_WORK);
    result
}

/// Takes the root's lock; `None` as soon as the daemon that has it answers. One that is ending gives it back.
async fn win(options: &Options) -> Result<Option<RootLock>, Failure> {
    let (root, socket) = (&options.places.root, options.places.socket());
    let begun = Instant::now();
    loop {
        let lock = RootLock::take(root)
            .map_err(Failure::of(format_args!("cannot take the lock of {}", root.display())))?;
        if lock.is_some() {
            return Ok(lock);
        }
        if UnixStream::connect(&socket).await.is_ok() {
            return Ok(None);
        }
        if begun.elapsed() > WINNER {
            return Err(Failure(format!(
                "another daemon has the root's lock but does not answer at {}",
                socket.display()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn serve(options: &Options) -> Result<(), Failure> {
    let places = &options.places;
    logging::start(&places.root).map_err(Failure::of("cannot open the daemon's log"))?;
    tracing::info!(root = %places.root.display(), pid = std::process::id(), "the daemon starts");
    let paths: Vec<_> = options
        .hosts
        .iter()
        .map(|host| host_path(host))
        .collect::<Result<_, _>>()
        .map_err(Failure)?;
    socket::make_runtime_folder(&places.runtime)
        .map_err(Failure::of("cannot make the folder of sockets"))?;
    let executable = std::env::current_exe().map_err(Failure::of("cannot find this executable"))?;
    let settings = Settings {
        places: places.clone(),
        accel: options.accel,
        pool: options.pool,
        group: options.group.clone(),
        executable,
    };
    let engine = Engine::open(settings).await.map_err(|error| Failure(error.chain()))?;

    let mut sockets = Vec::new();
    for path in std::iter::once(places.socket()).chain(paths) {
        let listening = Socket::listen(&path).await;
        let cannot = format!("cannot listen at {}", path.display());
        sockets.push(listening.map_err(Failure::of(cannot))?);
    }
    socket::link_socket(&places.socket_link(), &places.socket())
        .map_err(Failure::of("cannot link the socket into the root"))?;

    let stop = CancellationToken::new();
    stop_on_signals(stop.clone()).map_err(Failure::of("cannot watch for signals"))?;
    let app = App::new(engine.clone(), stop.clone());
    let seats = Seats::for_files(raise_file_limit());
    server::serve(sockets, seats, Dispatch::new(api::router(app)), stop).await;
    engine.close_pool().await;
    tracing::info!("the daemon ends; containers run on");
    Ok(())
}

/// Lets this process open as many files as it may, since connections are files; returns how many.
fn raise_file_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files stays as it is");
            limit.current
        }
    }
}

fn stop_on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
