//! The control line to a running QEMU: QMP, with a deadline on every answer.
//!
//! ```text
//!   execute ──► line out ──────────────► QEMU
//!      ▲ condvar                           │
//!   State { waiting, end } ◄── reader ◄────┘ {"QMP"} {"return"} {"error"} {"event"}
//! ```
//! One thread reads; callers sleep on the state it changes. Source: QEMU's qmp-spec.txt.

use crate::driver::ExitCause;
use crate::error::{Error, ErrorKind, Result};
use crate::keys::Stroke;
use crate::qemu::arguments::port_id;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The longest message taken from QEMU; its largest answers are some kilobytes.
const MAX_MESSAGE: u64 = 1 << 20;

/// How long a command may take. QEMU answers in a millisecond unless its host is starved.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// How long a command may take that writes a file.
const SLOW_DEADLINE: Duration = Duration::from_secs(60);

/// How long a key is held. Guests that poll their keyboard miss shorter ones.
const KEY_TIME: Duration = Duration::from_millis(40);

/// How long `quit` may take before the process is killed instead.
const QUIT_DEADLINE: Duration = Duration::from_secs(2);

/// A guest that resets itself so often in [`RESET_LOOP_TIME`] will not come up any more.
const RESET_LOOP: usize = 10;
/// See [`RESET_LOOP`].
const RESET_LOOP_TIME: Duration = Duration::from_secs(300);

/// A handle to command one VM. Clones share the line; every call may come from any thread.
#[derive(Clone, Debug)]
pub struct Control {
    shared: Arc<Shared>,
}

/// Whether a VM's CPUs run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// They do.
    Running,
    /// They do not, for this reason in QEMU's words (`paused`, `io-error`, `shutdown`, …).
    Stopped(String),
}

/// A connected control line on which nothing was said yet.
pub struct Connection {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

#[derive(Debug)]
struct Shared {
    writer: Mutex<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
    process: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    greeted: bool,
    last_id: u64,
    /// Commands under way and, once it came, their answer.
    waiting: HashMap<u64, Option<Answer>>,
    /// Why the machine shut down, from its SHUTDOWN event.
    end: Option<ExitCause>,
    /// When the guest reset itself, the last [`RESET_LOOP`] times.
    resets: VecDeque<Instant>,
    /// Devices of ports that somebody in the guest has open, and by the how many-th opening of any.
    open_ports: BTreeMap<String, u64>,
    /// How often ports were opened.
    openings: u64,
    /// Devices that the guest has let go of, and nobody has asked about since.
    deleted: BTreeSet<String>,
    /// Nothing will come any more.
    closed: bool,
}

type Answer = std::result::Result<Value, String>;

enum Message {
    Greeting,
    Answer(u64, Answer),
    Shutdown(ExitCause),
    GuestReset,
    Port { device: String, is_open: bool },
    Deleted(String),
    Other,
}

impl Connection {
    pub fn open(line: UnixStream) -> Result<Self> {
        let prepared = line
            .set_write_timeout(Some(ANSWER_DEADLINE))
            .and_then(|()| line.try_clone())
            .map_err(|error| Error::io("prepare the control line", error))?;
        Ok(Self { reader: BufReader::new(prepared), writer: line })
    }
}

impl Control {
    /// Waits for QEMU's greeting and takes the line into command mode.
    ///
    /// `process` is QEMU's own, for [`Control::power_off_now`]'s last resort.
    pub(super) fn greet(
        connection: Connection,
        process: OwnedFd,
        deadline: Duration,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            writer: Mutex::new(connection.writer),
            state: Mutex::default(),
            changed: Condvar::new(),
            process,
        });
        let for_reader = Arc::clone(&shared);
        thread::Builder::new()
            .name("qmp".into())
            .spawn(move || for_reader.read_all(connection.reader))
            .map_err(|error| Error::io("start the thread that reads the control line", error))?;
        let control = Self { shared };
        control.shared.wait_for("wait for the VM's greeting", deadline, |state| {
            state.greeted.then_some(())
        })?;
        control.execute("qmp_capabilities", ANSWER_DEADLINE)?;
        Ok(control)
    }

    /// Ends the VM at once, as pulling the plug would: its guest is not asked. Returns when that
    /// is certain, which may be a moment before [`RunningVm::wait`](crate::RunningVm::wait) does.
    ///
    /// QEMU is asked to quit, so that what it had under way reaches its disks; a QEMU that does not
    /// answer is killed. A VM that has already ended is no error.
    ///
    /// # Errors
    /// `Control` where the process can be neither asked nor killed.
    pub fn power_off_now(&self) -> Result<()> {
        if self.execute("quit", QUIT_DEADLINE).is_ok() {
            return Ok(());
        }
        self.kill()
    }

    /// Ends the VM as [`Control::power_off_now`] does, but what QEMU had under way is lost.
    ///
    /// # Errors
    /// `Control` where the process cannot be killed.
    pub fn kill(&self) -> Result<()> {
        match rustix::process::pidfd_send_signal(&self.shared.process, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::new(ErrorKind::Control, "kill the VM").because(error)),
        }
    }

    /// Lets the VM's CPUs run: from their first instruction, or from where they were paused.
    ///
    /// # Errors
    /// `Timeout`, or `Control` where the VM has ended.
    pub fn resume(&self) -> Result<()> {
        self.execute("cont", ANSWER_DEADLINE).map(drop)
    }

    /// Stops the VM's CPUs where they are.
    ///
    /// # Errors
    /// `Timeout`, or `Control` where the VM has ended.
    pub fn pause(&self) -> Result<()> {
        self.execute("stop", ANSWER_DEADLINE).map(drop)
    }

    /// Presses the power button. What it means is the guest's to decide.
    ///
    /// # Errors
    /// `Timeout`, or `Control` where the VM has ended.
    pub fn press_power_button(&self) -> Result<()> {
        self.execute("system_powerdown", ANSWER_DEADLINE).map(drop)
    }

    /// Writes what the guest shows on its screen to `file`, as PNG.
    ///
    /// # Errors
    /// `Timeout`, or `Control` where the VM has ended or the file cannot be written.
    pub fn save_screen(&self, file: &Path) -> Result<()> {
        let arguments = json!({ "filename": file, "format": "png" });
        self.execute_with("screendump", &arguments, SLOW_DEADLINE).map(drop)
    }

    /// Sets what viewers of the screen have to say from now on; VNC takes eight characters of it.
    ///
    /// # Errors
    /// `Timeout`, or `Control` where the VM has ended.
    pub fn set_screen_password(&self, password: &str) -> Result<()> {
        let arguments = json!({ "protocol": "vnc", "password": password });
        self.execute_with("set_password", &arguments, ANSWER_DEADLINE).map(drop)
    }

    /// Types, one stroke after the other; returns when the last one is under way.
    ///
    /// # Errors
    /// `Timeout`, or `Control` where the VM has ended.
    pub fn send_keys(&self, strokes: &[Stroke]) -> Result<()> {
        for Stroke(keys) in strokes {
            let key = |name: &&str| json!({ "type": "qcode", "data": name });
            let arguments = json!({
                "keys": keys.iter().map(key).collect::<Vec<_>>(),
                "hold-time": KEY_TIME.as_millis() as u64,
            });
            self.execute_with("send-key", &arguments, ANSWER_DEADLINE)?;
            // QEMU waits as long after the release; its queue is short and drops what it cannot hold.
            thread::sleep(2 * KEY_TIME);
        }
        Ok(())
    }

    /// Waits until the guest is found to reset itself over and over, ten times in five minutes;
    /// `false` where the VM has ended before.
    pub fn await_reset_loop(&self) -> bool {
        let mut state = self.shared.state();
        while !state.closed && !state.resets_in_a_loop() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }

    /// Whether somebody in the guest has opened this one of the VM's ports, counted from 0. Costs
    /// nothing: the VM tells it by itself.
    pub fn port_is_open(&self, number: usize) -> bool {
        self.port_opening(number).is_some()
    }

    /// Which of all openings of ports was that by which somebody in the guest has this one open; `None`
    /// where nobody has. Whoever opens it next has another.
    pub fn port_opening(&self, number: usize) -> Option<u64> {
        let state = self.shared.state();
        state.open_ports.get(&port_id(number)).copied().filter(|_| !state.closed)
    }

    /// Waits until somebody in the guest has opened one of these ports; `false` at the deadline, and where
    /// the VM has ended.
    pub fn await_port(&self, numbers: &[usize], limit: Duration) -> bool {
        let ids: Vec<_> = numbers.iter().map(|number| port_id(*number)).collect();
        let opened = self.shared.wait_for("wait for a port", limit, |state| {
            ids.iter().any(|id| state.open_ports.contains_key(id)).then_some(())
        });
        opened.is_ok()
    }

    /// Waits until whoever has this port open by that opening has closed it, or the VM has ended.
    pub fn await_port_closed(&self, number: usize, opening: u64) {
        let id = port_id(number);
        let mut state = self.shared.state();
        while !state.closed && state.open_ports.get(&id) == Some(&opening) {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the guest has let go of a device that was taken from it.
    pub(super) fn await_deleted(&self, device: &str, limit: Duration) -> Result<()> {
        self.shared.wait_for("take a device from the guest", limit, |state| {
            state.deleted.remove(device).then_some(())
        })
    }

    /// Whether the VM has ended, or is about to.
    pub fn has_ended(&self) -> bool {
        self.shared.state().closed
    }

    /// Asks whether the VM's CPUs run.
    ///
    /// # Errors
    /// `Timeout`, or `Control` where the VM has ended.
    pub fn query_status(&self) -> Result<Status> {
        let answer = self.execute("query-status", ANSWER_DEADLINE)?;
        Ok(match answer["status"].as_str() {
            Some("running") => Status::Running,
            other => Status::Stopped(other.unwrap_or("unknown").to_owned()),
        })
    }

    /// Returns why a VM whose process exited in good order did so. Its last words are on the line
    /// already, or never will be.
    pub(super) fn wait_end(&self) -> ExitCause {
        let said = self.shared.wait_for("read the VM's end", ANSWER_DEADLINE, |state| {
            state.closed.then(|| state.end.unwrap_or(ExitCause::PoweredOff))
        });
        said.unwrap_or(ExitCause::PoweredOff)
    }

    fn execute(&self, command: &str, deadline: Duration) -> Result<Value> {
        self.execute_with(command, &json!({}), deadline)
    }

    pub(super) fn execute_with(
        &self,
        command: &str,
        arguments: &Value,
        deadline: Duration,
    ) -> Result<Value> {
        let what = format!("ask the VM for {command:?}");
        let id = self.shared.state().expect_answer();
        let message = json!({ "execute": command, "arguments": arguments, "id": id });
        let answer = self.shared.send(&message).map_or_else(
            |error| Err(Error::new(ErrorKind::Control, &what).because(error)),
            |()| self.shared.wait_for(&what, deadline, |state| state.waiting.get_mut(&id)?.take()),
        );
        self.shared.state().waiting.remove(&id);
        answer?.map_err(|refusal| Error::new(ErrorKind::Control, what).because(refusal))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: &Value) -> io::Result<()> {
        let mut line = message.to_string();
        line.push('\n');
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }

    /// Waits until `found` gives something, the line is closed or the deadline is over.
    fn wait_for<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut found: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + deadline;
        let mut state = self.state();
        loop {
            if let Some(value) = found(&mut state) {
                return Ok(value);
            }
            if state.closed {
                let error = Error::new(ErrorKind::Control, what);
                return Err(error.because("the VM has closed its control line"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let late = format!("no answer within {} s", deadline.as_secs());
                return Err(Error::new(ErrorKind::Timeout, what).because(late));
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn read_all(&self, mut reader: impl BufRead) {
        while let Some(line) = next_line(&mut reader) {
            let message = Message::parse(&line);
            self.state().take(message);
            self.changed.notify_all();
        }
        self.state().closed = true;
        self.changed.notify_all();
    }
}

impl State {
    fn expect_answer(&mut self) -> u64 {
        self.last_id += 1;
        self.waiting.insert(self.last_id, None);
        self.last_id
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Greeting => self.greeted = true,
            // An answer nobody waits for any more came after its deadline.
            Message::Answer(id, answer) => {
                self.waiting.entry(id).and_modify(|slot| *slot = Some(answer));
            }
            Message::Shutdown(cause) => self.end = Some(cause),
            Message::GuestReset => {
                self.resets.push_back(Instant::now());
                if self.resets.len() > RESET_LOOP {
                    self.resets.pop_front();
                }
            }
            Message::Port { device, is_open: true } => {
                self.openings += 1;
                self.open_ports.insert(device, self.openings);
            }
            Message::Port { device, is_open: false } => drop(self.open_ports.remove(&device)),
            Message::Deleted(device) => drop(self.deleted.insert(device)),
            Message::Other => {}
        }
    }

    fn resets_in_a_loop(&self) -> bool {
        let first = self.resets.front().filter(|_| self.resets.len() == RESET_LOOP);
        let lasted = first.zip(self.resets.back()).map(|(first, last)| *last - *first);
        lasted.is_some_and(|lasted| lasted <= RESET_LOOP_TIME)
    }
}

impl Message {
    fn parse(line: &[u8]) -> Self {
        let Ok(mut value) = serde_json::from_slice::<Value>(line) else { return Self::Other };
        if value.get("QMP").is_some() {
            return Self::Greeting;
        }
        if value["event"] == "SHUTDOWN" {
            return Self::Shutdown(match value["data"]["reason"].as_str() {
                Some("guest-reset" | "subsystem-reset") => ExitCause::Reset,
                Some("guest-panic") => ExitCause::Panicked,
                Some("host-qmp-quit" | "host-signal" | "host-qmp-system-reset") => ExitCause::Quit,
                _ => ExitCause::PoweredOff,
            });
        }
        if value["event"] == "RESET" && value["data"]["guest"] == true {
            return Self::GuestReset;
        }
        if value["event"] == "VSERPORT_CHANGE" {
            let device = value["data"]["id"].as_str().unwrap_or_default().to_owned();
            return Self::Port { device, is_open: value["data"]["open"] == true };
        }
        if let ("DEVICE_DELETED", Some(device)) =
            (value["event"].as_str().unwrap_or_default(), value["data"]["device"].as_str())
        {
            return Self::Deleted(device.to_owned());
        }
        let Some(id) = value["id"].as_u64() else { return Self::Other };
        if let Some(result) = value.get_mut("return") {
            return Self::Answer(id, Ok(result.take()));
        }
        let refusal = value["error"]["desc"].as_str().unwrap_or("refused without a reason");
        Self::Answer(id, Err(refusal.to_owned()))
    }
}

/// Returns the next message, or `None` at the end of the line or of what may be said at once.
fn next_line(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    reader.by_ref().take(MAX_MESSAGE).read_until(b'\n', &mut line).ok()?;
    line.ends_with(b"\n").then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

    /// A control whose other end is in the test's hands.
    struct Fake {
        line: BufReader<UnixStream>,
        control: Control,
    }

    const SHORT: Duration = Duration::from_millis(20);

    impl Fake {
        fn greeted() -> Self {
            Self::greeted_by(pidfd_open(getpid(), PidfdFlags::empty()).unwrap())
        }

        fn greeted_by(process: OwnedFd) -> Self {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut line = BufReader::new(theirs);
            let greeter = thread::spawn(move || {
                line.get_mut().write_all(b"{\"QMP\": {}}\n").unwrap();
                answer(&mut line, "{}");
                line
            });
            let connection = Connection::open(ours).unwrap();
            let control = Control::greet(connection, process, ANSWER_DEADLINE).unwrap();
            Self { line: greeter.join().unwrap(), control }
        }
    }

    fn answer(line: &mut BufReader<UnixStream>, result: &str) {
        let mut asked = String::new();
        line.read_line(&mut asked).unwrap();
        let id = serde_json::from_str::<Value>(&asked).unwrap()["id"].as_u64().unwrap();
        let text = format!("{{\"return\": {result}, \"id\": {id}}}\n");
        line.get_mut().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn answers_find_their_callers() {
        let mut fake = Fake::greeted();
        let control = fake.control.clone();
        let asking = thread::spawn(move || control.query_status());
        fake.line.get_mut().write_all(b"{\"event\": \"RESUME\"}\nnot json\n").unwrap();
        answer(&mut fake.line, r#"{"status": "paused"}"#);
        assert_eq!(asking.join().unwrap().unwrap(), Status::Stopped("paused".into()));
    }

    #[test]
    fn a_silent_vm_is_a_timeout_and_its_late_answer_is_dropped() {
        let mut fake = Fake::greeted();
        let error = fake.control.execute("query-status", SHORT).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        answer(&mut fake.line, "1");
        let control = fake.control.clone();
        let asking = thread::spawn(move || control.execute("second", ANSWER_DEADLINE));
        answer(&mut fake.line, "2");
        assert_eq!(asking.join().unwrap().unwrap(), 2);
        assert!(fake.control.shared.state().waiting.is_empty());
    }

    #[test]
    fn a_vm_that_ends_fails_whoever_waits() {
        let fake = Fake::greeted();
        let control = fake.control.clone();
        let asking = thread::spawn(move || control.query_status());
        drop(fake.line);
        assert_eq!(asking.join().unwrap().unwrap_err().kind(), ErrorKind::Control);
    }

    #[test]
    fn a_message_without_end_closes_the_line() {
        let mut fake = Fake::greeted();
        let flood = vec![b' '; MAX_MESSAGE as usize + 1];
        let _ = fake.line.get_mut().write_all(&flood);
        assert_eq!(fake.control.query_status().unwrap_err().kind(), ErrorKind::Control);
    }

    #[test]
    fn a_kernel_panic_is_told_from_a_power_off() {
        for (reason, cause) in [
            ("guest-reset", ExitCause::Reset),
            ("guest-panic", ExitCause::Panicked),
            ("guest-shutdown", ExitCause::PoweredOff),
            ("host-qmp-quit", ExitCause::Quit),
        ] {
            let mut fake = Fake::greeted();
            let event = json!({ "event": "SHUTDOWN", "data": { "guest": true, "reason": reason } });
            fake.line.get_mut().write_all(format!("{event}\n").as_bytes()).unwrap();
            drop(fake.line);
            assert_eq!(fake.control.wait_end(), cause);
        }
    }

    #[test]
    fn ten_resets_by_the_guest_in_a_row_are_a_loop_and_fewer_or_the_hosts_are_not() {
        let mut fake = Fake::greeted();
        let reset =
            |guest: bool| format!("{}\n", json!({ "event": "RESET", "data": { "guest": guest } }));
        let watching = |fake: &Fake| {
            let control = fake.control.clone();
            thread::spawn(move || control.await_reset_loop())
        };
        let watch = watching(&fake);
        for guest in std::iter::repeat_n(true, 9).chain([false, false, true]) {
            assert!(!watch.is_finished());
            fake.line.get_mut().write_all(reset(guest).as_bytes()).unwrap();
        }
        assert!(watch.join().unwrap());

        let mut fake = Fake::greeted();
        let watch = watching(&fake);
        fake.line.get_mut().write_all(reset(true).repeat(9).as_bytes()).unwrap();
        drop(fake.line);
        assert!(!watch.join().unwrap());
    }

    #[test]
    fn a_port_is_open_while_the_guest_says_so() {
        let mut fake = Fake::greeted();
        let mut say = |open: bool| {
            let data = json!({ "id": port_id(0), "open": open });
            let event = json!({ "event": "VSERPORT_CHANGE", "data": data });
            fake.line.get_mut().write_all(format!("{event}\n").as_bytes()).unwrap();
        };
        assert!(!fake.control.port_is_open(0));
        say(true);
        assert!(fake.control.await_port(&[1, 0], ANSWER_DEADLINE));
        assert!(fake.control.port_is_open(0) && !fake.control.port_is_open(1));
        let first = fake.control.port_opening(0).unwrap();
        say(false);
        say(true);
        fake.control.await_port_closed(0, first);
        assert_ne!(fake.control.port_opening(0), Some(first), "it is another opening");
        drop(fake.line);
        assert!(!fake.control.await_port(&[1], ANSWER_DEADLINE), "the VM has ended");
        assert!(fake.control.has_ended() && !fake.control.port_is_open(0));
    }

    #[test]
    fn a_vm_that_cannot_be_asked_to_end_is_killed() {
        let mut vm = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let process = pidfd_open(Pid::from_child(&vm), PidfdFlags::empty()).unwrap();
        let fake = Fake::greeted_by(process);
        drop(fake.line);
        fake.control.power_off_now().unwrap();
        assert!(!vm.wait().unwrap().success());
        fake.control.power_off_now().unwrap();
    }
}
