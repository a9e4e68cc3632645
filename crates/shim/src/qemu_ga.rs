//! The guest's end of qemu-guest-agent, where the operating system in a machine has one.
//!
//! ```text
//!   call ─► connect ─► 0xff sync{id} ─► 0xff … {"return": id}      whatever came before is dropped
//!                  ─► {"execute": …} ─► {"return": …} | {"error": …}
//! ```
//!
//! One call at a time, each with a deadline, each after a synchronisation of its own: an answer that
//! came too late for one is never taken for the next one's. The guest is untrusted: a line longer
//! than a call expects, or one that is no answer, ends the connection and fails the call.
//! Source: QEMU's `qga/qapi-schema.json`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ireko_protocol::agent::{GuestAddress, GuestInterface, MOST_INTERFACES};
use ireko_vm::Control;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The name of the port on which the agent listens.
pub const PORT_NAME: &str = "org.qemu.guest_agent.0";
/// The place of that port among the VM's.
pub const PORT: usize = 0;
/// How long the agent may take over an ordinary call; emulated systems are slow.
const ORDINARY: Duration = Duration::from_secs(20);
/// How long a file system may take to be held still.
const FREEZE: Duration = Duration::from_secs(10);
/// How long it may take to go on. Who asks does so again.
const THAW: Duration = Duration::from_secs(20);
/// A shutdown that is begun has no answer; a refusal comes at once.
const REFUSAL: Duration = Duration::from_secs(3);
/// How much of a file is written at once.
const PIECE: usize = 32 << 10;
/// The longest answer to a call that returns little.
const SMALL: usize = 1 << 20;
/// The longest answer with a program's output: the agent keeps 16 MiB of each stream, in base64.
const OUTPUT: usize = 48 << 20;

/// A call that was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody listens in the guest.
    #[error(
        "no agent runs in this machine: `ireko image prepare` puts Ireko's into an image, the package \
         qemu-guest-agent has another; its console needs none, `ireko console NAME`"
    )]
    Absent,
    /// The agent says why.
    #[error("the guest's agent: {0}")]
    Refused(String),
    /// No answer in time.
    #[error("the guest's agent did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// It said something that is no answer.
    #[error("the guest's agent does not keep to its protocol: {0}")]
    Confused(&'static str),
    /// The line to it broke.
    #[error("the line to the guest's agent broke")]
    Io(#[from] io::Error),
}

type Result<T> = std::result::Result<T, AgentError>;

/// A program's end, as the agent tells it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exited {
    /// Its exit code, where it had one.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// The agent dropped some of it.
    pub is_truncated: bool,
}

/// The agent of one machine.
pub struct QemuGa {
    socket: PathBuf,
    line: Mutex<Option<Line>>,
    is_there: Box<dyn Fn() -> bool + Send + Sync>,
}

struct Line {
    stream: UnixStream,
    ahead: Vec<u8>,
    last_sync: u32,
}

impl QemuGa {
    /// That of the VM whose port [`PORT`] leads to this socket. Nothing is asked yet.
    pub fn new(socket: PathBuf, vm: Control) -> Self {
        Self { socket, line: Mutex::new(None), is_there: Box::new(move || vm.port_is_open(PORT)) }
    }

    /// That of a machine that has none.
    #[cfg(test)]
    pub fn absent() -> Self {
        Self { socket: PathBuf::new(), line: Mutex::new(None), is_there: Box::new(|| false) }
    }

    /// Asks whether it answers.
    pub fn ping(&self) -> Result<()> {
        self.call("guest-ping", json!({}), ORDINARY, SMALL).map(drop)
    }

    /// Holds all file systems still, until they are thawed: it does not do that by itself.
    pub fn freeze(&self) -> Result<()> {
        self.call("guest-fsfreeze-freeze", json!({}), FREEZE, SMALL).map(drop)
    }

    /// Lets them go on; how many were held still.
    pub fn thaw(&self) -> Result<u64> {
        let thawed = self.call("guest-fsfreeze-thaw", json!({}), THAW, SMALL)?;
        thawed.as_u64().ok_or(AgentError::Confused("a number of file systems was due"))
    }

    /// Begins to shut the system down.
    pub fn shut_down(&self) -> Result<()> {
        match self.call("guest-shutdown", json!({ "mode": "powerdown" }), REFUSAL, SMALL) {
            // The line may also end with the machine, which can be quick.
            Err(AgentError::Late(_) | AgentError::Io(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sets the system's clock: nanoseconds since 1970 UTC.
    pub fn set_time(&self, unix_nanos: u64) -> Result<()> {
        self.call("guest-set-time", json!({ "time": unix_nanos }), ORDINARY, SMALL).map(drop)
    }

    /// Which network devices the system has, and their addresses.
    pub fn interfaces(&self, limit: Duration) -> Result<Vec<GuestInterface>> {
        let all = self.call("guest-network-get-interfaces", json!({}), limit, SMALL)?;
        let all = all.as_array().ok_or(AgentError::Confused("a list of devices was due"))?;
        Ok(all.iter().take(MOST_INTERFACES).map(interface).collect())
    }

    /// What the system calls itself: `debian`, `mswindows`.
    pub fn system(&self) -> Result<String> {
        let told = self.call("guest-get-osinfo", json!({}), ORDINARY, SMALL)?;
        Ok(told["id"].as_str().unwrap_or_default().chars().take(64).collect())
    }

    /// Writes a file, in the place of one that is there.
    pub fn write_file(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let open = json!({ "path": path, "mode": "w" });
        let handle = self.call("guest-file-open", open, ORDINARY, SMALL)?;
        let handle = handle.as_i64().ok_or(AgentError::Confused("a file's handle was due"))?;
        let written = bytes.chunks(PIECE).try_for_each(|piece| {
            let write = json!({ "handle": handle, "buf-b64": STANDARD.encode(piece) });
            let told = self.call("guest-file-write", write, ORDINARY, SMALL)?;
            match told["count"].as_u64() == u64::try_from(piece.len()).ok() {
                true => Ok(()),
                false => Err(AgentError::Confused("all of a file was to be written")),
            }
        });
        let closed = self.call("guest-file-close", json!({ "handle": handle }), ORDINARY, SMALL);
        written.and(closed.map(drop))
    }

    /// Starts a program without standard input; its id. Without `env` it gets the agent's own.
    pub fn start(&self, argv: &[String], env: &[String]) -> Result<u64> {
        let (program, arguments) = argv.split_first().ok_or(AgentError::Confused("no program"))?;
        let mut what = json!({ "path": program, "arg": arguments, "capture-output": true });
        if !env.is_empty() {
            what["env"] = json!(env);
        }
        let started = self.call("guest-exec", what, ORDINARY, SMALL)?;
        started["pid"].as_u64().ok_or(AgentError::Confused("a process id was due"))
    }

    /// Asks how a program that was started ended; `None` while it runs.
    pub fn outcome(&self, pid: u64) -> Result<Option<Exited>> {
        let status = self.call("guest-exec-status", json!({ "pid": pid }), ORDINARY, OUTPUT)?;
        if status["exited"] != true {
            return Ok(None);
        }
        let number = |name: &str| status[name].as_i64().and_then(|n| i32::try_from(n).ok());
        let bytes = |name: &str| match status[name].as_str() {
            None => Ok(Vec::new()),
            Some(text) => {
                STANDARD.decode(text).map_err(|_| AgentError::Confused("output that is no base64"))
            }
        };
        Ok(Some(Exited {
            code: number("exitcode"),
            signal: number("signal"),
            stdout: bytes("out-data")?,
            stderr: bytes("err-data")?,
            is_truncated: status["out-truncated"] == true || status["err-truncated"] == true,
        }))
    }

    fn call(&self, name: &str, arguments: Value, limit: Duration, most: usize) -> Result<Value> {
        if !(self.is_there)() {
            return Err(AgentError::Absent);
        }
        let deadline = Instant::now() + limit;
        let mut place = self.line.try_lock_until(deadline).ok_or(AgentError::Late(limit))?;
        let mut line = match place.take() {
            Some(line) => line,
            None => Line::connect(&self.socket)?,
        };
        let answer = line.call(name, &arguments, deadline, most).map_err(|error| match error {
            AgentError::Late(_) => AgentError::Late(limit),
            other => other,
        });
        if matches!(answer, Ok(_) | Err(AgentError::Refused(_))) {
            *place = Some(line);
        }
        answer
    }
}

/// A device as the agent describes it; an address that is none is left out.
fn interface(said: &Value) -> GuestInterface {
    let address = |said: &Value| {
        let address: IpAddr = said["ip-address"].as_str()?.parse().ok()?;
        let prefix = u8::try_from(said["prefix"].as_u64()?).ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= most).then_some(GuestAddress { address, prefix })
    };
    let addresses = said["ip-addresses"].as_array().into_iter().flatten();
    GuestInterface {
        name: said["name"].as_str().unwrap_or_default().chars().take(64).collect(),
        mac: said["hardware-address"].as_str().and_then(|mac| mac.parse().ok()),
        addresses: addresses.filter_map(address).take(MOST_INTERFACES).collect(),
    }
}

impl Line {
    fn connect(socket: &std::path::Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        Ok(Self { stream, ahead: Vec::new(), last_sync: std::process::id() })
    }

    fn call(
        &mut self,
        name: &str,
        arguments: &Value,
        deadline: Instant,
        most: usize,
    ) -> Result<Value> {
        self.last_sync = self.last_sync.wrapping_add(1);
        let sync = json!({
            "execute": "guest-sync-delimited", "arguments": { "id": self.last_sync },
        });
        // The leading byte ends whatever half a command the agent may have read.
        self.send(format!("\u{ff}{sync}\n").as_str(), deadline)?;
        loop {
            self.skip_to_mark(deadline)?;
            let line = self.next_line(deadline, SMALL)?;
            let answer = serde_json::from_slice::<Value>(&line).unwrap_or_default();
            if answer["return"] == self.last_sync {
                break;
            }
        }
        let command = json!({ "execute": name, "arguments": arguments });
        self.send(&format!("{command}\n"), deadline)?;
        let line = self.next_line(deadline, most)?;
        let mut answer: Value =
            serde_json::from_slice(&line).map_err(|_| AgentError::Confused("no JSON"))?;
        if let Some(result) = answer.get_mut("return") {
            return Ok(result.take());
        }
        match answer["error"]["desc"].as_str() {
            Some(reason) => Err(AgentError::Refused(reason.chars().take(1000).collect())),
            None => Err(AgentError::Confused("neither a result nor an error")),
        }
    }

    fn send(&mut self, text: &str, deadline: Instant) -> Result<()> {
        self.stream.set_write_timeout(Some(left(deadline)?))?;
        // Latin-1: the one character above ASCII is a single byte on this line.
        let bytes: Vec<u8> = match text.strip_prefix('\u{ff}') {
            Some(rest) => [&[0xff], rest.as_bytes()].concat(),
            None => text.as_bytes().to_vec(),
        };
        self.stream.write_all(&bytes).map_err(late_or_broken)
    }

    /// Drops all that comes before the mark of a synchronisation.
    fn skip_to_mark(&mut self, deadline: Instant) -> Result<()> {
        loop {
            if let Some(at) = self.ahead.iter().position(|byte| *byte == 0xff) {
                self.ahead.drain(..=at);
                return Ok(());
            }
            self.ahead.clear();
            self.read(deadline)?;
        }
    }

    fn next_line(&mut self, deadline: Instant, most: usize) -> Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.ahead[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.ahead.split_off(searched + at + 1);
                return Ok(std::mem::replace(&mut self.ahead, rest));
            }
            searched = self.ahead.len();
            if searched > most {
                return Err(AgentError::Confused("an answer without end"));
            }
            self.read(deadline)?;
        }
    }

    fn read(&mut self, deadline: Instant) -> Result<()> {
        self.stream.set_read_timeout(Some(left(deadline)?))?;
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer).map_err(late_or_broken)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            count => {
                self.ahead.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }
}

fn left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(AgentError::Late(left)) } else { Ok(left) }
}

fn late_or_broken(error: io::Error) -> AgentError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AgentError::Late(Duration::ZERO),
        _ => error.into(),
    }
}

#[cfg(test)]
#[path = "qemu_ga/tests.rs"]
mod tests;
