//! Which addresses this system has.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ireko_protocol::agent::{GuestAddress, GuestInterface, MOST_INTERFACES};
use ireko_protocol::network::MacAddress;

use crate::failure::{During, Result};

/// The network devices and their addresses, by the devices' names.
pub fn addresses() -> Result<Vec<GuestInterface>> {
    let mut found: BTreeMap<String, GuestInterface> = BTreeMap::new();
    for (name, word) in List::take()?.entries() {
        let interface = found.entry(name.clone()).or_insert_with(|| GuestInterface {
            name,
            mac: None,
            addresses: Vec::new(),
        });
        match word {
            Word::Mac(mac) => interface.mac = Some(mac),
            Word::Address(address) if interface.addresses.len() < MOST_INTERFACES => {
                interface.addresses.push(address);
            }
            Word::Address(_) => {}
        }
    }
    Ok(found.into_values().take(MOST_INTERFACES).collect())
}

/// What one entry of the kernel's list says of a device.
enum Word {
    Mac(MacAddress),
    Address(GuestAddress),
}

/// The C library's list. Source: getifaddrs(3).
struct List(*mut libc::ifaddrs);

impl List {
    fn take() -> Result<Self> {
        let mut first = std::ptr::null_mut();
        // SAFETY: the list's head is written to a place of ours; it is freed once, by `drop`.
        match unsafe { libc::getifaddrs(&mut first) } {
            0 => Ok(Self(first)),
            _ => Err(std::io::Error::last_os_error()).during(|| "list the network devices"),
        }
    }

    fn entries(&self) -> Vec<(String, Word)> {
        let mut words = Vec::new();
        let mut next = self.0;
        // SAFETY: each entry, and what it points to, lives as long as the list; the last one's `ifa_next`
        // is null. An address is of the family that it names, whose struct it is then read as.
        unsafe {
            while let Some(entry) = next.as_ref() {
                let name = CStr::from_ptr(entry.ifa_name).to_string_lossy().into_owned();
                if let Some(word) = word_of(entry) {
                    words.push((name, word));
                }
                next = entry.ifa_next;
            }
        }
        words
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the list came from `getifaddrs` and nothing of it is kept.
        unsafe { libc::freeifaddrs(self.0) };
    }
}

/// # Safety
///
/// The entry is one of a list that is not freed yet.
unsafe fn word_of(entry: &libc::ifaddrs) -> Option<Word> {
    // SAFETY: as the caller says; the family tells which struct the address is.
    unsafe {
        let family = i32::from(entry.ifa_addr.as_ref()?.sa_family);
        let prefix = |bits: u32| u8::try_from(bits).unwrap_or_default();
        Some(match family {
            libc::AF_PACKET => {
                let link = entry.ifa_addr.cast::<libc::sockaddr_ll>().read_unaligned();
                let bytes = link.sll_addr.first_chunk::<6>().filter(|_| link.sll_halen == 6)?;
                Word::Mac(MacAddress(*bytes))
            }
            libc::AF_INET => {
                let read = |at: *mut libc::sockaddr| {
                    let address = at.cast::<libc::sockaddr_in>().read_unaligned();
                    u32::from_be(address.sin_addr.s_addr)
                };
                let mask = entry.ifa_netmask.as_ref().map_or(u32::MAX, |_| read(entry.ifa_netmask));
                let address = IpAddr::V4(Ipv4Addr::from(read(entry.ifa_addr)));
                Word::Address(GuestAddress { address, prefix: prefix(mask.count_ones()) })
            }
            libc::AF_INET6 => {
                let read = |at: *mut libc::sockaddr| {
                    let address = at.cast::<libc::sockaddr_in6>().read_unaligned();
                    u128::from_be_bytes(address.sin6_addr.s6_addr)
                };
                let mask =
                    entry.ifa_netmask.as_ref().map_or(u128::MAX, |_| read(entry.ifa_netmask));
                let address = IpAddr::V6(Ipv6Addr::from(read(entry.ifa_addr)));
                Word::Address(GuestAddress { address, prefix: prefix(mask.count_ones()) })
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_has_its_address_and_no_hardware() {
        let all = addresses().unwrap();
        let lo = all.iter().find(|interface| interface.name == "lo").unwrap();
        let own = GuestAddress { address: IpAddr::V4(Ipv4Addr::LOCALHOST), prefix: 8 };
        assert!(lo.addresses.contains(&own), "{lo:?}");
        assert!(!own.leads_out());
    }
}
