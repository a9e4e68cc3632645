//! The DHCP server: one lease for each port, which is the container's address.
//!
//! There is no pool here and nothing to run out of: the engine chose the address when it attached
//! the container, and a client gets that one or none. Source: RFC 2131, RFC 2132.

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, Ipv4Cidr};
use std::net::Ipv4Addr;

/// Clients renew after half of it: then those that did not notice their link going down and up learn
/// of an address that was changed.
const LEASE_SECONDS: u32 = 600;
/// BOOTP's least length, which some clients insist on.
const LEAST: usize = 300;

/// What a client is told.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Whose it is.
    pub mac: EthernetAddress,
    /// The address.
    pub address: Ipv4Addr,
    /// The subnet's prefix length.
    pub prefix: u8,
    /// Who serves it.
    pub server: Ipv4Addr,
    /// Where everything outside is sent; `None` where there is no way out.
    pub router: Option<Ipv4Addr>,
    /// The longest IP packet.
    pub mtu: u16,
    /// The client's host name.
    pub hostname: String,
}

/// An answer to a client.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The message.
    pub message: Vec<u8>,
    /// Where it goes: the client's address where it has one already, else everybody.
    pub to: Ipv4Addr,
}

/// Answers a client's message; `None` where there is nothing to say.
pub fn answer(request: &[u8], lease: &Lease) -> Option<Answer> {
    let packet = DhcpPacket::new_checked(request).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    if request.client_hardware_address != lease.mac {
        return None;
    }
    let for_another = request.server_identifier.is_some_and(|server| server != lease.server);
    let message_type = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if for_another => return None,
        DhcpMessageType::Request => {
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            match wanted == lease.address {
                true => DhcpMessageType::Ack,
                false => DhcpMessageType::Nak,
            }
        }
        DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return None,
    };
    let keeps_address =
        request.message_type == DhcpMessageType::Inform || message_type == DhcpMessageType::Nak;
    let message = message(&request, lease, message_type, keeps_address)?;
    let to = match request.client_ip {
        address if address == lease.address && message_type != DhcpMessageType::Nak => address,
        _ => Ipv4Addr::BROADCAST,
    };
    Some(Answer { message, to })
}

fn message(
    request: &DhcpRepr,
    lease: &Lease,
    message_type: DhcpMessageType,
    keeps_address: bool,
) -> Option<Vec<u8>> {
    let is_refusal = message_type == DhcpMessageType::Nak;
    let cidr = Ipv4Cidr::new(lease.address, lease.prefix);
    let (dns, mtu) = (lease.server.octets(), lease.mtu.to_be_bytes());
    let broadcast = cidr.broadcast().map(|address| address.octets());
    let hostname = lease.hostname.as_bytes();
    let mut options = Vec::new();
    if !is_refusal {
        options.push(DhcpOption { kind: 6, data: &dns });
        if (1..=255).contains(&hostname.len()) {
            options.push(DhcpOption { kind: 12, data: hostname });
        }
        options.push(DhcpOption { kind: 26, data: &mtu });
        if let Some(broadcast) = &broadcast {
            options.push(DhcpOption { kind: 28, data: broadcast });
        }
    }
    let given = |address| if keeps_address { Ipv4Addr::UNSPECIFIED } else { address };
    let seconds = |share: u32| (!keeps_address).then_some(LEASE_SECONDS / 8 * share);
    let repr = DhcpRepr {
        message_type,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: lease.mac,
        client_ip: if is_refusal { Ipv4Addr::UNSPECIFIED } else { request.client_ip },
        your_ip: given(lease.address),
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: lease.router.filter(|_| !is_refusal),
        subnet_mask: (!is_refusal).then(|| cidr.netmask()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(lease.server),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: seconds(8),
        renew_duration: seconds(4),
        rebind_duration: seconds(7),
        additional_options: &options,
    };
    let mut bytes = vec![0; repr.buffer_len().max(LEAST)];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 5]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 5);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

    fn lease() -> Lease {
        Lease {
            mac: MAC,
            address: ADDRESS,
            prefix: 24,
            server: SERVER,
            router: Some(SERVER),
            mtu: 1400,
            hostname: "web".into(),
        }
    }

    fn request(message_type: DhcpMessageType, change: impl FnOnce(&mut DhcpRepr)) -> Vec<u8> {
        let mut repr = DhcpRepr {
            message_type,
            transaction_id: 77,
            secs: 0,
            client_hardware_address: MAC,
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        change(&mut repr);
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).unwrap();
        bytes
    }

    #[test]
    fn a_client_is_offered_its_lease_with_router_names_mtu_and_host_name() {
        let answer = answer(&request(DhcpMessageType::Discover, |_| {}), &lease()).unwrap();
        assert_eq!(answer.to, Ipv4Addr::BROADCAST);
        assert!(answer.message.len() >= LEAST);
        let packet = DhcpPacket::new_checked(&answer.message[..]).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(repr.message_type, DhcpMessageType::Offer);
        assert_eq!((repr.transaction_id, repr.your_ip), (77, ADDRESS));
        assert_eq!((repr.router, repr.server_identifier), (Some(SERVER), Some(SERVER)));
        assert_eq!(repr.subnet_mask, Some(Ipv4Addr::new(255, 255, 255, 0)));
        let option = |kind| packet.options().find(|option| option.kind == kind).unwrap().data;
        assert_eq!(option(6), SERVER.octets());
        assert_eq!(option(12), b"web");
        assert_eq!(option(26), 1400u16.to_be_bytes());
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut DhcpRepr), expected: Option<(DhcpMessageType, Ipv4Addr)>) {
        let answer = answer(&request(DhcpMessageType::Request, change), &lease());
        let found = answer.map(|answer| {
            let packet = DhcpPacket::new_checked(&answer.message[..]).unwrap();
            (DhcpRepr::parse(&packet).unwrap().message_type, answer.to)
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_client_gets_its_own_address_and_no_other() {
        let broadcast = Ipv4Addr::BROADCAST;
        check(|r| r.requested_ip = Some(ADDRESS), Some((DhcpMessageType::Ack, broadcast)));
        check(|r| r.client_ip = ADDRESS, Some((DhcpMessageType::Ack, ADDRESS)));
        check(|r| r.requested_ip = Some(SERVER), Some((DhcpMessageType::Nak, broadcast)));
        check(|_| {}, Some((DhcpMessageType::Nak, broadcast)));
        let other = Ipv4Addr::new(10, 1, 0, 9);
        check(|r| r.server_identifier = Some(other), None);
        check(|r| r.client_hardware_address = EthernetAddress([2; 6]), None);
    }

    #[test]
    fn garbage_is_not_answered() {
        assert_eq!(answer(&[], &lease()), None);
        assert_eq!(answer(&[1; 400], &lease()), None);
    }
}
