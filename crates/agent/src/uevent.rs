//! Waiting for a device: the kernel announces each on a netlink socket.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink};

/// Asks `find` now and after each kernel event until it answers or `patience` is over.
///
/// The socket is bound before the first look, so an event between a look and a wait is not lost.
pub fn wait_for<T>(patience: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let events = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::KOBJECT_UEVENT),
    )
    .and_then(|socket| {
        rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, 1))?;
        Ok(socket)
    });
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = find() {
            return Some(found);
        }
        let left = deadline.checked_duration_since(Instant::now())?;
        // Some attributes change without an event; a look four times a second covers those.
        let slice = left.min(Duration::from_millis(250));
        match &events {
            Ok(socket) => {
                let timeout = Timespec::try_from(slice).ok();
                let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], timeout.as_ref());
                let mut scratch = [0u8; 4096];
                while rustix::net::recv(socket, &mut scratch, RecvFlags::DONTWAIT).is_ok() {}
            }
            Err(_) => std::thread::sleep(slice),
        }
    }
}
