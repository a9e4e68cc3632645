//! Another machine: a network namespace behind a pair of devices. Takes privilege.

use crate::programs::run;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// The other machine's address, and the host's for it, where both are routed.
pub const OUTSIDE: &str = "198.18.77.2";
/// See [`OUTSIDE`].
pub const HOST: &str = "198.18.77.1";

/// Says one word to everybody who connects to its first argument's port.
const SPEAKER: &str = "import socket,sys\n\
    s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
    s.bind(('', int(sys.argv[1]))); s.listen(16); print('up', flush=True)\n\
    while True:\n    c,_=s.accept(); c.sendall(b'outside'); c.close()\n";

/// Another machine; it goes with this value, and what it runs.
pub struct Outside {
    name: String,
    speakers: Mutex<Vec<Child>>,
}

/// `ip WORDS`; says why it fails.
pub fn ip(words: &str) -> bool {
    let ran = run(Command::new("ip").args(words.split(' ')));
    if ran.code != 0 {
        eprintln!("skipped: ip {words}: {}", ran.stderr.trim());
    }
    ran.code == 0
}

impl Outside {
    /// One that the host routes to; `None`, having said why, where that takes privilege.
    pub fn routed() -> Option<Self> {
        let near = Self::near();
        Self::behind(&[
            &format!("addr add {HOST}/24 dev {near}"),
            &format!("link set {near} up"),
            &format!("-n NAME addr add {OUTSIDE}/24 dev far0"),
            "-n NAME link set far0 up",
            &format!("-n NAME route add default via {HOST}"),
        ])
    }

    /// One that is on a bridge of the host's, with this address.
    pub fn on_bridge(bridge: &str, address: &str) -> Option<Self> {
        let near = Self::near();
        Self::behind(&[
            &format!("link set {near} master {bridge} up"),
            &format!("-n NAME addr add {address}/24 dev far0"),
            "-n NAME link set far0 up",
        ])
    }

    fn near() -> String {
        format!("irk{}", std::process::id() % 100_000)
    }

    fn behind(steps: &[&str]) -> Option<Self> {
        let name = format!("ireko-out-{}", std::process::id());
        let outside = Self { name: name.clone(), speakers: Mutex::default() };
        let first = [
            format!("netns add {name}"),
            format!("link add {} type veth peer name far0 netns {name}", Self::near()),
        ];
        let steps = steps.iter().map(|step| step.replace("NAME", &name));
        first.into_iter().chain(steps).all(|step| ip(&step)).then_some(outside)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Says `outside` to everybody who connects to this port of its.
    pub fn speak(&self, port: u16) {
        let mut speaker = self
            .command("python3")
            .args(["-c", SPEAKER, &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut up = [0; 3];
        speaker.stdout.take().expect("its output").read_exact(&mut up).expect("it is up");
        self.speakers.lock().expect("one thread").push(speaker);
    }

    /// What a TCP server says to it; empty where nobody answers.
    pub fn ask(&self, address: &str, port: &str) -> String {
        let ask = format!(
            "import socket; s=socket.create_connection(('{address}', {port}), 3); \
             s.shutdown(1); print(s.recv(9).decode())"
        );
        run(self.command("python3").args(["-c", &ask])).stdout.trim().to_owned()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for mut speaker in self.speakers.lock().expect("one thread").drain(..) {
            // It may have ended by itself.
            let _ = speaker.kill();
            let _ = speaker.wait();
        }
        // The devices go with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
