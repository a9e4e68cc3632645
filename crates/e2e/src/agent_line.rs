//! The host's end of the line to the agent in a machine, in the place of its shim: to say what no shim says.

use crate::World;
use ireko_protocol::agent::{
    ExitStatus, GuestMessage, ProcessId, Reply, Request, RequestBody, Spawn, Stdio, stream_of,
};
use ireko_protocol::frame::{Frame, FrameDecoder, FrameKind};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often a hail is repeated: one that is said while nobody listens is lost.
const AGAIN: Duration = Duration::from_secs(2);

/// A line that nobody else has while it is there.
pub struct AgentLine {
    line: UnixStream,
    decoder: FrameDecoder,
    /// All that a process wrote to its standard output.
    pub heard: Vec<u8>,
    number: u32,
}

impl AgentLine {
    /// Takes the line of a container whose agent nobody has talked to yet.
    pub fn take(world: &World, container: &str) -> Self {
        let plan = std::fs::read(world.container_dir(container).join("plan.json")).expect("a plan");
        let plan: serde_json::Value = serde_json::from_slice(&plan).expect("JSON");
        let folder = PathBuf::from(plan["runtime_dir"].as_str().expect("a folder"));
        let line = UnixStream::connect(folder.join("agent.sock")).expect("the agent's line");
        Self { line, decoder: FrameDecoder::default(), heard: Vec::new(), number: 1000 }
    }

    /// Hails whoever is there, until it greets.
    #[track_caller]
    fn hail(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            self.send(&Request { id: 0, body: RequestBody::Hail });
            let again = Instant::now() + AGAIN;
            while let Some(message) = self.message(again) {
                if matches!(message, GuestMessage::Hello { .. }) {
                    return;
                }
            }
        }
        panic!("no agent greets");
    }

    /// Hails until somebody greets who is another process than this one, and tells which.
    #[track_caller]
    pub fn hail_another(&mut self, than: Option<&str>, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            self.hail(patience);
            self.heard.clear();
            // One that is about to end may not answer any more.
            if let Some(asks) = self.try_script("echo $PPID", AGAIN * 5)
                && self.try_exit(asks, AGAIN * 5).is_some()
            {
                let heard = String::from_utf8_lossy(&std::mem::take(&mut self.heard)).into_owned();
                if than != Some(heard.as_str()) {
                    return heard;
                }
            }
        }
        panic!("there is no other agent than {than:?}");
    }

    /// Asks, and waits for the answer.
    #[track_caller]
    pub fn ask(&mut self, body: RequestBody, patience: Duration) -> Reply {
        let line = format!("{body:?}");
        self.try_ask(body, patience).unwrap_or_else(|| panic!("no answer to {line}"))
    }

    fn try_ask(&mut self, body: RequestBody, patience: Duration) -> Option<Reply> {
        let asked = self.next_number();
        self.send(&Request { id: asked.into(), body });
        let deadline = Instant::now() + patience;
        while let Some(message) = self.message(deadline) {
            match message {
                GuestMessage::Reply { id, result } if id == u64::from(asked) => {
                    return Some(result);
                }
                _ => {}
            }
        }
        None
    }

    /// Starts a shell script, which waits for what [`AgentLine::say`] says.
    #[track_caller]
    pub fn script(&mut self, script: &str, patience: Duration) -> ProcessId {
        self.try_script(script, patience).expect("it is started")
    }

    fn try_script(&mut self, script: &str, patience: Duration) -> Option<ProcessId> {
        let process = ProcessId(self.next_number());
        let spawn = Spawn {
            process,
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            tty: None,
            stdin: true,
            init: false,
            privileged: false,
        };
        match self.try_ask(RequestBody::Spawn(Box::new(spawn)), patience)? {
            Reply::Spawned { .. } => Some(process),
            other => panic!("{other:?}"),
        }
    }

    /// Writes to a script's standard input.
    pub fn say(&mut self, process: ProcessId, text: &str) {
        let frame = Frame::data(stream_of(process, Stdio::Stdin), text.as_bytes().to_vec());
        self.line.write_all(&frame.encode()).expect("write to the agent");
    }

    /// Waits for a script's end.
    #[track_caller]
    pub fn await_exit(&mut self, of: ProcessId, patience: Duration) -> ExitStatus {
        self.try_exit(of, patience).expect("the script ends")
    }

    fn try_exit(&mut self, of: ProcessId, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        while let Some(message) = self.message(deadline) {
            match message {
                GuestMessage::Exited { process, status } if process == of => return Some(status),
                _ => {}
            }
        }
        None
    }

    fn next_number(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    fn send(&mut self, request: &Request) {
        let frame = Frame::message(request).expect("a frame").encode();
        self.line.write_all(&frame).expect("write to the agent");
    }

    /// The next message; `None` at the deadline.
    fn message(&mut self, deadline: Instant) -> Option<GuestMessage> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("frames") {
                match frame.kind {
                    FrameKind::Message => return Some(frame.parse().expect("a message")),
                    FrameKind::Data => self.heard.extend(frame.payload),
                    _ => {}
                }
                continue;
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|t| !t.is_zero())?;
            self.line.set_read_timeout(Some(left)).expect("set a time limit");
            let mut buffer = [0; 4096];
            match self.line.read(&mut buffer) {
                Ok(0) => panic!("the VM is gone"),
                Ok(count) => self.decoder.feed(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}
