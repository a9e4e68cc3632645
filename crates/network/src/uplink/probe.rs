//! Whether a guest's port takes connections: tried by the gateway, when the engine asks.
//!
//! ```text
//!   SYN ──► guest ──SYN-ACK──► open, said at once; then both sides end the connection
//!              ├───RST───────► closed
//!              └─nothing─────► closed, after some seconds
//! ```

use crate::endpoint::Endpoint;
use crate::port::Port;
use crate::switch::PortId;
use crate::uplink::tcp::FlowKey;
use smoltcp::socket::tcp::State;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::Ipv4Packet;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;

/// Probes at a time: more than there are clients to ask for them, since one that was answered ends
/// its connection first.
const MAX: usize = 256;
/// A guest that says nothing for so long is not there; the engine asks again.
const PATIENCE: Duration = Duration::from_secs(3);

/// All probes.
#[derive(Debug, Default)]
pub struct Probes {
    all: BTreeMap<FlowKey, Probe>,
    decided: Vec<(u64, bool)>,
}

#[derive(Debug)]
struct Probe {
    /// Who is to be told; `None` where that is done.
    client: Option<u64>,
    guest: Box<Endpoint>,
    deadline: Instant,
    due: Option<Instant>,
}

impl Probes {
    /// Tries a guest's port from `key.other`, which is the gateway's.
    pub fn begin(
        &mut self,
        key: FlowKey,
        client: u64,
        guest: SocketAddrV4,
        port: &mut Port,
        now: Instant,
    ) {
        if self.all.len() >= MAX {
            return self.decided.push((client, false));
        }
        let mut guest = Box::new(Endpoint::connecting(key.other, guest, port.way, now));
        let due = guest.poll(&mut port.link.out, now);
        let probe = Probe { client: Some(client), guest, deadline: now + PATIENCE, due };
        self.all.insert(key, probe);
    }

    /// Whether there is such a connection.
    pub fn contains(&self, key: &FlowKey) -> bool {
        self.all.contains_key(key)
    }

    /// Takes a segment from a guest; whether it is about a probe.
    pub fn segment(
        &mut self,
        key: &FlowKey,
        packet: &Ipv4Packet<&[u8]>,
        port: &mut Port,
        now: Instant,
    ) -> bool {
        let Some(probe) = self.all.get_mut(key) else { return false };
        probe.guest.receive(packet.clone().into_inner(), &mut port.link.out, now);
        probe.due = Some(now);
        true
    }

    /// Sends what is due, and sees what has been decided.
    pub fn settle(&mut self, ports: &mut BTreeMap<PortId, Port>, now: Instant) {
        let decided = &mut self.decided;
        self.all.retain(|key, probe| {
            if probe.next_timer() > now {
                return true;
            }
            let state = probe.guest.socket().state();
            let is_open = state == State::Established || state == State::CloseWait;
            let is_over = now >= probe.deadline || matches!(state, State::Closed | State::TimeWait);
            if is_open || is_over {
                decided.extend(probe.client.take().map(|client| (client, is_open)));
            }
            match is_over {
                true => probe.guest.socket().abort(),
                false if is_open => probe.guest.socket().close(),
                false => {}
            }
            if let Some(port) = ports.get_mut(&key.port) {
                probe.due = probe.guest.poll(&mut port.link.out, now);
            }
            !is_over
        });
    }

    /// Which clients can be told whether the port that they asked for is open.
    pub fn take_decided(&mut self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.decided)
    }

    /// When there is something to do.
    pub fn next_timer(&self) -> Option<Instant> {
        self.all.values().map(Probe::next_timer).min()
    }

    /// Ends all probes of a guest.
    pub fn remove_port(&mut self, port: PortId) {
        let decided = &mut self.decided;
        self.all.retain(|key, probe| {
            let stays = key.port != port;
            if !stays {
                decided.extend(probe.client.take().map(|client| (client, false)));
            }
            stays
        });
    }
}

impl Probe {
    fn next_timer(&self) -> Instant {
        self.due.map_or(self.deadline, |due| due.min(self.deadline))
    }
}
