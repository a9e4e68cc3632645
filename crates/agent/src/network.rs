//! Network devices: found by their MAC address, given an address and brought up.
//!
//! By ioctl, which for one address and one route says in a few lines what netlink takes a library
//! for. Source: netdevice(7).

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use ireko_protocol::agent::{FailureKind, Interface};
use ireko_protocol::network::MacAddress;
use rustix::net::{AddressFamily, SocketType};

use crate::configure::ioctl;
use crate::failure::{During, Failure, Result};
use crate::uevent;

/// How long a device may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);

/// Brings the loopback device up.
pub fn raise_loopback() -> Result<()> {
    let socket = control()?;
    raise(&socket, "lo")
}

/// Gives each device its IP address, and the machine the default route of one of them, in the place
/// of what they had.
pub fn bring_all_up(wanted: &[Interface]) -> Result<()> {
    let socket = control()?;
    remove_default_routes(&socket)?;
    for interface in wanted {
        bring_up(&socket, interface)?;
    }
    match wanted.iter().find_map(|interface| interface.default_route) {
        Some(gateway) => add_default_route(&socket, gateway),
        None => Ok(()),
    }
}

fn bring_up(socket: &OwnedFd, wanted: &Interface) -> Result<()> {
    let name = find(wanted.device.unwrap_or(wanted.mac))?;
    if wanted.device.is_some() {
        set_mac(socket, &name, wanted.mac)?;
    }
    let what = |part: &str| format!("set the {part} of network device {name} ({})", wanted.mac);
    let mut request = request(&name);
    request.ifr_ifru.ifru_mtu = libc::c_int::from(wanted.mtu);
    // SAFETY: SIOCSIFMTU reads one ifreq with an MTU.
    unsafe { ioctl(socket, libc::SIOCSIFMTU, (&raw mut request).cast()) }.during(|| what("MTU"))?;
    request.ifr_ifru.ifru_addr = socket_address(wanted.address);
    // SAFETY: SIOCSIFADDR reads one ifreq with an address.
    unsafe { ioctl(socket, libc::SIOCSIFADDR, (&raw mut request).cast()) }
        .during(|| what("address"))?;
    request.ifr_ifru.ifru_netmask = socket_address(netmask(wanted.prefix));
    // SAFETY: SIOCSIFNETMASK reads one ifreq with an address.
    unsafe { ioctl(socket, libc::SIOCSIFNETMASK, (&raw mut request).cast()) }
        .during(|| what("netmask"))?;
    raise(socket, &name)
}

/// Gives a device that is down its MAC address.
fn set_mac(socket: &OwnedFd, name: &str, mac: MacAddress) -> Result<()> {
    let mut data = [0; 14];
    for (slot, byte) in data.iter_mut().zip(mac.0) {
        *slot = byte as libc::c_char;
    }
    let mut request = request(name);
    request.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data };
    // SAFETY: SIOCSIFHWADDR reads one ifreq with a hardware address.
    unsafe { ioctl(socket, libc::SIOCSIFHWADDR, (&raw mut request).cast()) }
        .during(|| format!("set the MAC address of network device {name} to {mac}"))
}

/// Waits for the device with this MAC address; its name.
fn find(mac: MacAddress) -> Result<String> {
    uevent::wait_for(PATIENCE, || find_in(Path::new("/sys/class/net"), mac)).ok_or_else(|| {
        let message = format!("the machine has no network device with MAC address {mac}");
        Failure::new(FailureKind::NoSuch, message)
    })
}

fn find_in(devices: &Path, mac: MacAddress) -> Option<String> {
    std::fs::read_dir(devices).ok()?.find_map(|entry| {
        let folder = entry.ok()?;
        let text = std::fs::read_to_string(folder.path().join("address")).ok()?;
        let name = folder.file_name().into_string().ok()?;
        (text.trim().parse() == Ok(mac)).then_some(name)
    })
}

fn control() -> Result<OwnedFd> {
    rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
        .during(|| "open a socket to set up network devices")
}

fn raise(socket: &OwnedFd, name: &str) -> Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq with flags.
    unsafe { ioctl(socket, libc::SIOCSIFFLAGS, (&raw mut request).cast()) }
        .during(|| format!("bring network device {name} up"))
}

fn add_default_route(socket: &OwnedFd, gateway: Ipv4Addr) -> Result<()> {
    let mut route = default_route();
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: SIOCADDRT reads one rtentry; it names no device, so no pointer in it is followed.
    unsafe { ioctl(socket, libc::SIOCADDRT, (&raw mut route).cast()) }
        .during(|| format!("set the default route by {gateway}"))
}

fn remove_default_routes(socket: &OwnedFd) -> Result<()> {
    let mut route = default_route();
    loop {
        // SAFETY: SIOCDELRT reads one rtentry; it names no device, so no pointer in it is followed.
        match unsafe { ioctl(socket, libc::SIOCDELRT, (&raw mut route).cast()) } {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
            Err(error) => return Err(Failure::of("remove the default route", error)),
        }
    }
}

fn default_route() -> libc::rtentry {
    // SAFETY: an all-zero rtentry is a valid value of that C struct.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_flags = libc::RTF_UP;
    route
}

/// A request about the device of this name, which the kernel gave: it fits.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: an all-zero ifreq is a valid value of that C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // After the port, in network byte order.
    for (slot, byte) in data[2..6].iter_mut().zip(address.octets()) {
        *slot = byte as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn netmask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_mac_address() {
        let devices = tempfile::tempdir().unwrap();
        for (name, mac) in [("lo", "00:00:00:00:00:00"), ("eth1", "02:42:00:00:00:07")] {
            std::fs::create_dir(devices.path().join(name)).unwrap();
            std::fs::write(devices.path().join(name).join("address"), format!("{mac}\n")).unwrap();
        }
        let found = find_in(devices.path(), MacAddress([2, 0x42, 0, 0, 0, 7]));
        assert_eq!(found.as_deref(), Some("eth1"));
        assert_eq!(find_in(devices.path(), MacAddress([2; 6])), None);
    }

    #[test]
    fn a_prefix_is_a_netmask() {
        assert_eq!(netmask(16), Ipv4Addr::new(255, 255, 0, 0));
        assert_eq!(netmask(30), Ipv4Addr::new(255, 255, 255, 252));
        assert_eq!(netmask(0), Ipv4Addr::UNSPECIFIED);
    }
}
