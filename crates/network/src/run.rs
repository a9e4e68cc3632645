//! The process: from a plan to its end, one loop over all sockets.

use crate::control::Control;
use crate::error::{Error, Result};
use crate::sources::{Source, Sources};
use crate::switchboard::Switchboard;
use ireko_protocol::network::{Answer, NetworkPlan, Request, VERSION};
use mio::{Events, Poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smoltcp::time::Instant;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant as Clock;

const EVENTS: usize = 1024;

/// Runs the network of the plan in `plan_file` until the engine ends it.
///
/// What fails goes to stderr, which the engine keeps.
pub fn main(plan_file: &Path) -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match read_plan(plan_file).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn read_plan(path: &Path) -> Result<NetworkPlan> {
    let what = || format!("read the network's plan {}", path.display());
    let bytes = std::fs::read(path).map_err(|error| Error::new(what(), error))?;
    let plan: NetworkPlan =
        serde_json::from_slice(&bytes).map_err(|error| Error::new(what(), error))?;
    match plan.version {
        VERSION => Ok(plan),
        other => Err(Error::new(what(), format!("version {other} is not {VERSION}"))),
    }
}

/// Runs a network until the engine asks for its end.
///
/// # Errors
/// Its socket cannot be made, or the system cannot wait for events.
pub fn run(plan: NetworkPlan) -> Result<()> {
    raise_file_limit();
    let fail = |error| Error::new(format!("run the switch of network {}", plan.name), error);
    let mut poll = Poll::new().map_err(fail)?;
    let registry = poll.registry().try_clone().map_err(fail)?;
    let clock = Clock::now();
    let now = move || {
        // Microseconds of an i64 last for 292,000 years.
        Instant::from_micros(i64::try_from(clock.elapsed().as_micros()).unwrap_or(i64::MAX))
    };
    let mut network = Switchboard::new(plan.clone(), Sources::new(registry), now());
    let mut control = Control::listen(&plan.socket, network.sources()).map_err(fail)?;
    tracing::info!(network = plan.name, mode = ?plan.mode, "the switch is up");
    let mut events = Events::with_capacity(EVENTS);
    let mut is_over = false;
    let mut pause = None;
    while !is_over {
        match poll.poll(&mut events, pause) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(fail(error)),
            _ => {}
        }
        let time = now();
        for event in &events {
            match network.sources().get(event.token()) {
                None => {}
                Some(Source::Control) => control.accept(network.sources(), time),
                Some(Source::Client(id)) => control.turn(id, &mut network, |network, request| {
                    is_over |= request == Request::End;
                    answer(network, id, request, time)
                }),
                Some(source) => network.event(source, event, time),
            }
        }
        control.sweep(network.sources(), time);
        let quiet = network.settle(now());
        for (client, open) in network.probed() {
            control.answer(client, &Answer::Probed { open }, network.sources());
        }
        let waits = control.next_deadline().map(|deadline| deadline.max(time) - time);
        pause = quiet.into_iter().chain(waits).min().map(Into::into);
    }
    control.close();
    Ok(())
}

/// The answer to a client's request; `None` where it is not known yet.
fn answer(
    network: &mut Switchboard,
    client: u64,
    request: Request,
    now: Instant,
) -> Option<Answer> {
    let refused = |message| Answer::Refused { message };
    Some(match request {
        Request::Attach(endpoint) => match network.attach(*endpoint, now) {
            Ok(published) => Answer::Attached { published },
            Err(message) => refused(message),
        },
        Request::Detach { container } => {
            network.detach(&container);
            Answer::Done
        }
        Request::Probe { container, port } => match network.probe(client, &container, port, now) {
            Ok(()) => return None,
            Err(message) => refused(message),
        },
        Request::Open { container, port, socket } => {
            match network.open(&container, port, &socket) {
                Ok(()) => Answer::Done,
                Err(message) => refused(message),
            }
        }
        Request::Resolve { query } => Answer::Resolved { reply: network.resolve(&query) },
        Request::Status => Answer::Status { endpoints: network.status() },
        Request::End => Answer::Done,
    })
}

/// Every connection of a guest's is a socket here, and 1024 of them are soon used up.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
