//! A process's streams against a host at the other end of a socket: what waits, and for what.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio as Pipe};
use std::sync::Arc;
use std::time::Duration;

use ireko_agent::port::{Event, Port};
use ireko_agent::process::Process;
use ireko_agent::spawn::{Child, Ends};
use ireko_protocol::agent::{ExitStatus, GuestMessage, ProcessId, Stdio, stream_of};
use ireko_protocol::frame::{Frame, FrameDecoder, FrameKind, WINDOW};
use rustix::event::{PollFd, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const PROCESS: ProcessId = ProcessId(9);
const WHOLE_WINDOW: usize = WINDOW as usize;

/// An agent with one process, and the host's end of its port.
struct Bench {
    port: Port,
    process: Process,
    host: UnixStream,
    decoder: FrameDecoder,
    output: Vec<u8>,
    ended: Vec<u32>,
    credit: usize,
}

impl Bench {
    #[expect(clippy::zombie_processes, reason = "reaping it is part of what is tested")]
    fn run(script: &str) -> Self {
        let (ours, host) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        host.set_nonblocking(true).unwrap();
        let mut bench = Self {
            port: Port::over(ours.into()).unwrap(),
            process: Process::starting(PROCESS, true),
            host,
            decoder: FrameDecoder::default(),
            output: Vec::new(),
            ended: Vec::new(),
            credit: WHOLE_WINDOW,
        };
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Pipe::piped())
            .stdout(Pipe::piped())
            .stderr(Pipe::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let pipes = Ends::Pipes {
            stdin: child.stdin.take().map(|pipe| non_blocking(pipe.into())),
            stdout: non_blocking(child.stdout.take().unwrap().into()),
            stderr: non_blocking(child.stderr.take().unwrap().into()),
        };
        let child = Child {
            pidfd: Arc::new(pidfd_open(pid, PidfdFlags::empty()).unwrap()),
            pid: child.id(),
            container_pid: 1,
            ends: pipes,
        };
        bench.process.attach(child, &mut bench.port);
        bench
    }

    /// Turns the agent's loop until nothing happens for a while or the process said farewell.
    fn turn_until(&mut self, mut enough: impl FnMut(&Self) -> bool) {
        let patience = Timespec::try_from(Duration::from_secs(30)).unwrap();
        while !enough(self) {
            let mut parts = Vec::new();
            let mut fds =
                vec![PollFd::from_borrowed_fd(self.port.interest().0, self.port.interest().1)];
            for (part, fd, flags) in self.process.interests(self.port.has_room()) {
                parts.push(part);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
            assert!(poll(&mut fds, Some(&patience)).unwrap() > 0, "nothing happens any more");
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            for (part, ready) in parts.into_iter().zip(&ready[1..]) {
                if *ready {
                    self.process.advance(part, &mut self.port);
                }
            }
            self.turn_port();
            self.hear();
        }
    }

    fn turn_port(&mut self) {
        let mut events = Vec::new();
        self.port.turn(&mut events);
        for event in events {
            let Event::Frame(frame) = event else { continue };
            match frame.kind {
                FrameKind::Data => self.process.input(&frame.payload, &mut self.port),
                FrameKind::Eof => self.process.end_input(),
                FrameKind::Credit => {
                    self.process.grant(Stdio::Stdout, frame.credit_bytes().unwrap());
                }
                FrameKind::Message => panic!("the host says nothing here"),
            }
        }
    }

    fn hear(&mut self) {
        let mut buffer = vec![0; 1 << 20];
        if let Ok(count) = self.host.read(&mut buffer) {
            self.decoder.feed(&buffer[..count]);
        }
        while let Some(frame) = self.decoder.next_frame().unwrap() {
            match frame.kind {
                FrameKind::Data => self.output.extend(&frame.payload),
                FrameKind::Eof => self.ended.push(frame.stream),
                FrameKind::Credit => self.credit += frame.credit_bytes().unwrap() as usize,
                FrameKind::Message => panic!("only the main loop says messages"),
            }
        }
    }

    fn say(&mut self, frame: &Frame) {
        let bytes = frame.encode();
        let mut left = &bytes[..];
        while !left.is_empty() {
            match self.host.write(left) {
                Ok(count) => left = &left[count..],
                Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => self.turn_port(),
                Err(cause) => panic!("write to the agent: {cause}"),
            }
        }
    }
}

fn non_blocking(fd: OwnedFd) -> OwnedFd {
    rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK).unwrap();
    fd
}

fn exited(status: ExitStatus) -> Option<GuestMessage> {
    Some(GuestMessage::Exited { process: PROCESS, status })
}

#[test]
fn output_stops_at_the_window_and_the_farewell_waits_for_the_last_byte() {
    let mut bench = Bench::run("head -c 300000 /dev/zero; exit 3");
    let total = 300_000;
    bench.turn_until(|bench| bench.output.len() >= WHOLE_WINDOW);
    assert_eq!(bench.output.len(), WHOLE_WINDOW);
    // The rest fits the pipe, so the process can end; its farewell must not overtake its bytes.
    bench.turn_until(|bench| bench.process.running().is_none());
    assert_eq!(bench.process.farewell(), None);
    assert_eq!(bench.output.len(), WHOLE_WINDOW);
    let stdout = stream_of(PROCESS, Stdio::Stdout);
    bench.say(&Frame::credit(stdout, 1_000_000));
    bench.turn_until(|bench| bench.process.farewell().is_some());
    bench.turn_until(|bench| bench.ended.len() == 2);
    assert_eq!(bench.output.len(), total);
    assert_eq!(bench.process.farewell(), exited(ExitStatus::Code(3)));
}

#[test]
fn input_is_credited_as_the_process_takes_it_and_its_end_is_seen() {
    let mut bench = Bench::run("wc -c");
    let stdin = stream_of(PROCESS, Stdio::Stdin);
    let mut sent = 0;
    while sent < 1_000_000 {
        bench.turn_until(|bench| bench.credit > 0);
        let count = bench.credit.min(10_000);
        bench.credit -= count;
        sent += count;
        bench.say(&Frame::data(stdin, vec![b'x'; count]));
    }
    bench.say(&Frame::eof(stdin));
    bench.turn_until(|bench| bench.process.farewell().is_some() && bench.ended.len() == 2);
    assert_eq!(String::from_utf8_lossy(&bench.output).trim(), sent.to_string());
}

#[test]
fn bytes_nobody_reads_are_taken_and_dropped() {
    let mut bench = Bench::run("exec 0<&-; echo closed; sleep 0.2");
    bench.turn_until(|bench| bench.output == b"closed\n");
    let stdin = stream_of(PROCESS, Stdio::Stdin);
    bench.credit = 0;
    bench.say(&Frame::data(stdin, vec![0; 60_000]));
    bench.turn_until(|bench| bench.credit == 60_000);
    bench.turn_until(|bench| bench.process.farewell().is_some());
}

#[test]
fn a_killed_process_says_by_which_signal() {
    let mut bench = Bench::run("cat");
    bench.process.signal(15).unwrap();
    bench.turn_until(|bench| bench.process.farewell().is_some());
    assert_eq!(bench.process.farewell(), exited(ExitStatus::Signal(15)));
}

#[test]
fn frames_wait_for_a_host_and_a_half_written_one_is_dropped_with_it() {
    let (ours, host) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut port = Port::over(ours.into()).unwrap();
    let mut events = Vec::new();
    port.turn(&mut events);
    assert_eq!(events, [Event::NewSession]);
    // More than a socket holds: the last of these cannot be written whole.
    for _ in 0..64 {
        port.send(&Frame::data(9, vec![0; 60_000]));
    }
    assert!(!port.has_room());
    port.turn(&mut events);
    drop(host);
    port.turn(&mut events);
    assert_eq!(events.len(), 1, "a host that left brings no frames");
    assert!(!port.has_room(), "what was not sent still waits");
}
