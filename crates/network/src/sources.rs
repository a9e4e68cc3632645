//! What the process waits for: every socket with the one thing it is for.
//!
//! A token is never used twice, so an event that was on its way when its socket was closed belongs
//! to nobody.

use crate::switch::PortId;
use crate::uplink::ping::PingKey;
use crate::uplink::tcp::FlowKey;
use crate::uplink::udp::UdpKey;
use mio::{Interest, Registry, Token, event};
use std::collections::HashMap;
use std::io;

/// Who an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The engine wants to connect.
    Control,
    /// A request of the engine's.
    Client(u64),
    /// A VM.
    Link(PortId),
    /// The host's side of a TCP connection.
    Tcp(FlowKey),
    /// The host's side of a guest's datagrams.
    Udp(UdpKey),
    /// The host's side of a guest's pings.
    Ping(PingKey),
    /// A name that is being looked up.
    Lookup(u64),
    /// A published port.
    Published(u64),
}

/// All sockets that are waited for.
#[derive(Debug)]
pub struct Sources {
    registry: Registry,
    next: usize,
    by_token: HashMap<Token, Source>,
}

impl Sources {
    /// None yet.
    pub fn new(registry: Registry) -> Self {
        Self { registry, next: 0, by_token: HashMap::new() }
    }

    /// Waits for a socket to have something to read.
    ///
    /// # Errors
    /// The system cannot wait for more.
    pub fn add(&mut self, socket: &mut impl event::Source, source: Source) -> io::Result<Token> {
        self.register(socket, source, Interest::READABLE)
    }

    /// Waits for a socket both ways.
    ///
    /// # Errors
    /// The system cannot wait for more.
    pub fn add_both(
        &mut self,
        socket: &mut impl event::Source,
        source: Source,
    ) -> io::Result<Token> {
        self.register(socket, source, Interest::READABLE | Interest::WRITABLE)
    }

    /// Waits for a socket to take more as well, or no longer. Unix sockets say so whenever anything
    /// was read from them: whoever waits without having to is woken for nothing by each packet.
    ///
    /// # Errors
    /// The system cannot wait for it.
    pub fn wait_to_write(
        &mut self,
        socket: &mut impl event::Source,
        token: Token,
        is_full: bool,
    ) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        let interest = if is_full { both } else { Interest::READABLE };
        self.registry.reregister(socket, token, interest)
    }

    fn register(
        &mut self,
        socket: &mut impl event::Source,
        source: Source,
        interest: Interest,
    ) -> io::Result<Token> {
        let token = Token(self.next);
        self.next += 1;
        self.registry.register(socket, token, interest)?;
        self.by_token.insert(token, source);
        Ok(token)
    }

    /// Waits for it no more.
    pub fn remove(&mut self, socket: &mut impl event::Source, token: Token) {
        self.by_token.remove(&token);
        // It is about to be closed, which ends the waiting anyhow.
        let _ = self.registry.deregister(socket);
    }

    /// Who an event is for; `None` where its socket is gone.
    pub fn get(&self, token: Token) -> Option<Source> {
        self.by_token.get(&token).copied()
    }
}
