use super::*;
use ireko_protocol::agent::{FailureKind, GuestAddress, GuestMessage, Request, VERSION};
use ireko_protocol::frame::{Frame, FrameDecoder, FrameKind, MAX_MESSAGE};
use parking_lot::Condvar;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);

/// A port that the test opens and closes.
#[derive(Default)]
struct Port {
    opening: Mutex<Option<u64>>,
    changed: Condvar,
}

impl Port {
    fn set(&self, opening: Option<u64>) {
        *self.opening.lock() = opening;
        self.changed.notify_all();
    }
}

impl Ports for Port {
    fn opening(&self) -> Option<u64> {
        *self.opening.lock()
    }

    fn await_closed(&self, opening: u64) {
        let mut now = self.opening.lock();
        while *now == Some(opening) {
            self.changed.wait(&mut now);
        }
    }

    fn await_any(&self, _: Duration) -> bool {
        self.opening().is_some()
    }
}

/// A machine whose agent does what the test says.
struct Bench {
    _folder: tempfile::TempDir,
    port: Arc<Port>,
    listener: UnixListener,
    agents: MachineAgents,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let port = Arc::new(Port::default());
        port.set(Some(1));
        let agents = MachineAgents {
            qemu_ga: QemuGa::absent(),
            socket,
            vm: port.clone(),
            state: Arc::default(),
            report: Mutex::new(None),
        };
        Self { _folder: folder, port, listener, agents }
    }

    /// Takes one connection, and does this on it.
    fn agent(&self, act: impl FnOnce(Peer) + Send + 'static) -> JoinHandle<()> {
        let listener = self.listener.try_clone().unwrap();
        thread::spawn(move || {
            let (line, _) = listener.accept().unwrap();
            act(Peer { line, decoder: FrameDecoder::default() });
        })
    }

    #[track_caller]
    fn fails(&self, limit: Duration, told: &str) {
        let error = match self.agents.ours(limit).expect("the port is open") {
            Ok(_) => self.agents.addresses(limit, false).expect_err("it lies"),
            Err(error) => error.into(),
        };
        let error = crate::failure::chain_of(&error);
        assert!(error.contains(told), "{error}");
    }
}

/// The agent's end of the port.
struct Peer {
    line: UnixStream,
    decoder: FrameDecoder,
}

impl Peer {
    fn request(&mut self) -> Option<Request> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame.parse().unwrap());
            }
            let mut buffer = [0; 4096];
            match self.line.read(&mut buffer) {
                Ok(count @ 1..) => self.decoder.feed(&buffer[..count]),
                _ => return None,
            }
        }
    }

    fn say(&mut self, message: &GuestMessage) {
        let _ = self.line.write_all(&Frame::message(message).unwrap().encode());
    }

    fn greet(&mut self) {
        assert_eq!(self.request().unwrap().body, RequestBody::Hail);
        self.say(&GuestMessage::Hello { version: VERSION, kernel: "6.1".into() });
    }

    fn reply(&mut self, result: Reply) {
        let id = self.request().unwrap().id;
        self.say(&GuestMessage::Reply { id, result });
    }

    /// Waits until the other end has hung up.
    fn stay(mut self) {
        while self.request().is_some() {}
    }
}

fn interface(name: &str) -> GuestInterface {
    let address = GuestAddress { address: "172.17.0.9".parse().unwrap(), prefix: 16 };
    GuestInterface { name: name.into(), mac: None, addresses: vec![address; 100] }
}

#[test]
fn addresses_come_by_ours_and_are_kept_for_those_who_take_recent_ones() {
    let bench = Bench::new();
    let agent = bench.agent(|mut peer| {
        peer.greet();
        let interfaces = vec![interface(&"x".repeat(1000)); 100];
        peer.reply(Reply::Addresses { interfaces });
        peer.reply(Reply::Addresses { interfaces: Vec::new() });
        peer.stay();
    });
    for recent in [false, true] {
        let told = bench.agents.addresses(LONG, recent).unwrap();
        assert_eq!((told.len(), told[0].name.len()), (MOST_INTERFACES, 64));
        assert_eq!(told[0].addresses.len(), MOST_INTERFACES);
    }
    assert_eq!(bench.agents.addresses(LONG, false).unwrap(), []);
    bench.port.set(None);
    agent.join().unwrap();
}

#[test]
fn one_that_lies_fails_its_session_and_the_next_one_is_whole() {
    type Lie = fn(&mut Peer);
    let lies: [(Lie, &str); 6] = [
        (
            |peer| {
                peer.request();
                drop(peer.line.write_all(&[0xff; 64]));
            },
            "the guest is gone",
        ),
        (
            |peer| {
                peer.request();
                let mut header = Frame::data(0, Vec::new()).encode();
                header[..4].copy_from_slice(&(MAX_MESSAGE as u32 + 1).to_le_bytes());
                header[8] = FrameKind::Message as u8;
                drop(peer.line.write_all(&header));
            },
            "the guest is gone",
        ),
        (
            |peer| {
                peer.request();
                peer.say(&GuestMessage::Hello { version: 99, kernel: String::new() });
            },
            "speaks version 99",
        ),
        (
            |peer| {
                peer.greet();
                peer.reply(Reply::Spawned { pid: 7 });
            },
            "something else than was asked",
        ),
        (
            |peer| {
                peer.greet();
                let message = "not today".to_owned();
                peer.reply(Reply::Failed { kind: FailureKind::Other, message });
            },
            "not today",
        ),
        (
            |peer| {
                peer.greet();
                peer.request();
                // Cut off in the middle of a frame.
                drop(peer.line.write_all(&Frame::data(4, vec![0; 99]).encode()[..20]));
                let _ = peer.line.shutdown(std::net::Shutdown::Both);
            },
            "the guest is gone",
        ),
    ];
    for (number, (lie, told)) in lies.into_iter().enumerate() {
        let bench = Bench::new();
        let agent = bench.agent(move |mut peer| {
            lie(&mut peer);
            peer.stay();
        });
        bench.fails(LONG, told);
        bench.port.set(Some(2));
        agent.join().unwrap();
        let agent = bench.agent(|mut peer| {
            peer.greet();
            peer.reply(Reply::Addresses { interfaces: vec![interface("eth0")] });
            peer.stay();
        });
        assert_eq!(bench.agents.addresses(LONG, false).unwrap().len(), 1, "after lie {number}");
        bench.port.set(None);
        agent.join().unwrap();
    }
}

#[test]
fn one_that_never_greets_and_one_that_never_stops_talking_end_with_the_deadline() {
    let bench = Bench::new();
    let agent = bench.agent(Peer::stay);
    bench.fails(SHORT, "did not answer");
    agent.join().unwrap();

    let agent = bench.agent(|mut peer| {
        peer.greet();
        let hello = GuestMessage::Hello { version: VERSION, kernel: "x".repeat(1 << 16) };
        let endless = Frame::message(&hello).unwrap().encode();
        while peer.line.write_all(&endless).is_ok() {}
    });
    assert!(bench.agents.ours(LONG).unwrap().is_ok());
    bench.fails(SHORT, "did not answer");
    bench.port.set(None);
    agent.join().unwrap();
}

#[test]
fn whoever_waits_for_one_that_is_ended_hears_so() {
    let bench = Bench::new();
    let port = Arc::clone(&bench.port);
    let agent = bench.agent(move |mut peer| {
        peer.greet();
        // Asked, it is killed.
        peer.request();
        port.set(None);
        peer.stay();
    });
    let error = bench.agents.addresses(LONG, false).unwrap_err();
    assert!(crate::failure::chain_of(&error).contains("the guest is gone"), "{error}");
    agent.join().unwrap();
    let error = bench.agents.addresses(LONG, false).unwrap_err().to_string();
    assert!(error.contains("no agent runs in this machine"), "{error}");
}

#[test]
fn work_is_waited_for_while_its_agent_shows_life_and_no_longer() {
    let bench = Bench::new();
    let agent = bench.agent(|mut peer| {
        peer.greet();
        let work = peer.request().unwrap().id;
        // An older one does not know the question; that is a sign of life too.
        for _ in 0..2 {
            let asked = peer.request().unwrap();
            assert_eq!(asked.body, RequestBody::Ping);
            let (kind, message) = (FailureKind::BadInput, "older".to_owned());
            peer.say(&GuestMessage::Reply {
                id: asked.id,
                result: Reply::Failed { kind, message },
            });
        }
        peer.say(&GuestMessage::Reply { id: work, result: Reply::Done });
        peer.stay();
    });
    let guest = bench.agents.ours(LONG).unwrap().unwrap();
    let work = || guest.ask(RequestBody::Thaw).unwrap();
    assert_eq!(guest.await_work(work(), LONG, SHORT, LONG).unwrap(), Reply::Done);
    // From here on it says nothing any more.
    let error = guest.await_work(work(), LONG, SHORT, SHORT).unwrap_err();
    assert!(matches!(error, GuestError::Late(limit) if limit == SHORT), "{error}");
    let error = guest.await_work(work(), SHORT, LONG, LONG).unwrap_err();
    assert!(matches!(error, GuestError::Late(limit) if limit == SHORT), "{error}");
    bench.port.set(None);
    agent.join().unwrap();
}
