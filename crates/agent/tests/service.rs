//! The agent as a service, against a host at the other end of a socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use ireko_agent::port::Port;
use ireko_agent::serve::{Role, serve};
use ireko_protocol::agent::{
    ExitStatus, FailureKind, GuestMessage, ProcessId, Reply, Request, RequestBody, Spawn, Stdio,
    stream_of,
};
use ireko_protocol::frame::{Frame, FrameDecoder, FrameKind};

const PROCESS: ProcessId = ProcessId(1234);

/// The host's end.
struct Host {
    line: UnixStream,
    decoder: FrameDecoder,
    next: u64,
}

impl Host {
    /// An agent that was hailed, whose thread ends with the tests.
    fn hailed() -> Self {
        let (ours, line) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        line.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        thread::spawn(move || serve(Port::over(ours.into()).unwrap(), Role::Service));
        let mut host = Self { line, decoder: FrameDecoder::default(), next: 0 };
        // It speaks by itself as well, to a host that it sees come.
        assert!(matches!(host.message(), GuestMessage::Hello { .. }));
        host.hail();
        host
    }

    fn hail(&mut self) {
        self.ask(RequestBody::Hail);
        assert!(matches!(self.message(), GuestMessage::Hello { .. }));
    }

    fn ask(&mut self, body: RequestBody) {
        self.next += 1;
        let frame = Frame::message(&Request { id: self.next, body }).unwrap();
        self.line.write_all(&frame.encode()).unwrap();
    }

    fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let mut buffer = [0; 4096];
            let count = self.line.read(&mut buffer).expect("a frame in time");
            assert!(count > 0, "the agent is gone");
            self.decoder.feed(&buffer[..count]);
        }
    }

    fn message(&mut self) -> GuestMessage {
        self.frame().parse().expect("a message")
    }

    fn reply(&mut self, body: RequestBody) -> Reply {
        self.ask(body);
        match self.message() {
            GuestMessage::Reply { id, result } if id == self.next => result,
            other => panic!("{other:?}"),
        }
    }

    fn start(&mut self, spawn: Spawn) {
        let reply = self.reply(RequestBody::Spawn(Box::new(spawn)));
        assert!(matches!(reply, Reply::Spawned { pid: 1.. }), "{reply:?}");
    }

    /// What a process writes until it has ended, and how it ended.
    fn outcome(&mut self) -> (String, ExitStatus) {
        let mut output = Vec::new();
        loop {
            let frame = self.frame();
            match frame.kind {
                FrameKind::Data => output.extend(frame.payload),
                FrameKind::Message => match frame.parse().unwrap() {
                    GuestMessage::Exited { process: PROCESS, status } => {
                        return (String::from_utf8_lossy(&output).into_owned(), status);
                    }
                    other => panic!("{other:?}"),
                },
                FrameKind::Eof | FrameKind::Credit => {}
            }
        }
    }
}

fn sh(script: &str) -> Spawn {
    Spawn {
        process: PROCESS,
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: Vec::new(),
        cwd: "/".into(),
        user: String::new(),
        tty: None,
        stdin: false,
        init: false,
        privileged: false,
    }
}

/// Becoming a user, even oneself, is root's to do.
fn is_root() -> bool {
    rustix::process::geteuid().is_root() || {
        eprintln!("skipped: processes are started by root alone");
        false
    }
}

#[test]
fn programs_run_in_the_system_with_all_that_an_exec_may_ask_for() {
    if !is_root() {
        return;
    }
    let mut host = Host::hailed();
    host.start(Spawn {
        env: vec!["A=b".into()],
        cwd: "/tmp".into(),
        user: "12:34".into(),
        stdin: true,
        ..sh("id -u; id -g; pwd; echo $A; command -v sh >/dev/null && cat; exit 7")
    });
    let stdin = stream_of(PROCESS, Stdio::Stdin);
    host.line.write_all(&Frame::data(stdin, b"typed\n".to_vec()).encode()).unwrap();
    host.line.write_all(&Frame::eof(stdin).encode()).unwrap();
    let (output, status) = host.outcome();
    assert_eq!((output.as_str(), status), ("12\n34\n/tmp\nb\ntyped\n", ExitStatus::Code(7)));

    host.start(Spawn { tty: Some((33, 99)), ..sh("stty size; echo $TERM; sleep 600") });
    host.ask(RequestBody::Resize { process: PROCESS, rows: 20, columns: 50 });
    host.ask(RequestBody::Signal { process: PROCESS, signal: 9 });
    let mut output = String::new();
    let status = loop {
        let frame = host.frame();
        match frame.kind {
            FrameKind::Data => output += &String::from_utf8_lossy(&frame.payload),
            FrameKind::Message => match frame.parse().unwrap() {
                GuestMessage::Exited { status, .. } => break status,
                GuestMessage::Reply { result, .. } => assert_eq!(result, Reply::Done),
                other => panic!("{other:?}"),
            },
            _ => {}
        }
    };
    assert_eq!(status, ExitStatus::Signal(9), "{output}");

    let nothing = host.reply(RequestBody::Spawn(Box::new(Spawn {
        argv: vec!["no-such-program".into()],
        ..sh("")
    })));
    assert!(matches!(nothing, Reply::Failed { kind: FailureKind::NotFound, .. }), "{nothing:?}");
}

#[test]
fn what_an_earlier_host_started_runs_on_unheard_and_its_streams_end() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let mut host = Host::hailed();
    // It ends by itself once its input has ended, and then leaves its mark.
    let script = format!("cat > /dev/null; echo done > {}", mark.display());
    host.start(Spawn { stdin: true, ..sh(&script) });
    host.hail();
    assert!(matches!(host.message(), GuestMessage::Exited { process: PROCESS, .. }));
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "done\n");
}

#[test]
fn a_service_tells_its_addresses_and_refuses_what_is_not_for_it() {
    let mut host = Host::hailed();
    let Reply::Addresses { interfaces } = host.reply(RequestBody::Addresses) else { panic!() };
    assert!(interfaces.iter().any(|interface| interface.name == "lo"), "{interfaces:?}");
    for body in [RequestBody::PowerOff, RequestBody::Usage, RequestBody::Pause] {
        let refused = host.reply(body);
        assert!(matches!(refused, Reply::Failed { kind: FailureKind::BadInput, .. }));
    }
    let newer = Frame {
        stream: 0,
        kind: FrameKind::Message,
        payload: br#"{"id": 77, "body": {"do": "dance"}}"#.to_vec(),
    };
    host.line.write_all(&newer.encode()).unwrap();
    match host.message() {
        GuestMessage::Reply { id: 77, result: Reply::Failed { message, .. } } => {
            assert!(message.contains("older"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}
