//! Frames of duplicate address detection and announcements: ARP (RFC 826, RFC 5227) and neighbour
//! discovery (RFC 4861, RFC 4862). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::Mac;

const BROADCAST: Mac = Mac([0xff; 6]);
const NOBODY: Mac = Mac([0; 6]);
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const REQUEST: u16 = 1;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Override flag of an advertisement: takes the place of what a neighbour believed (RFC 4861
/// section 4.4).
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_ADDRESS: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERNET: usize = 14;
const IPV6_HEADER: usize = 40;

/// A probe for an address, without a source address.
pub(super) fn question(from: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => arp(from, Ipv4Addr::UNSPECIFIED, v4),
        IpAddr::V6(v6) => {
            let [.., a, b, c] = v6.octets();
            let pair = u16::from_be_bytes;
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, pair([0xff, a]), pair([b, c]));
            icmpv6(
                from,
                Ipv6Addr::UNSPECIFIED,
                group,
                &[&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], &v6.octets()[..]].concat(),
            )
        }
    }
}

/// Tells everybody that an address is here now.
pub(super) fn announcement(from: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => arp(from, v4, v4),
        IpAddr::V6(v6) => {
            let option = [&[TARGET_LINK_ADDRESS, 1], &from.0[..]].concat();
            let head = [ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
            icmpv6(
                from,
                v6,
                ALL_NODES,
                &[&head[..], &v6.octets(), &option].concat(),
            )
        }
    }
}

/// Sender that claims the address by this frame, or is about to use it.
pub(super) fn claim(frame: &[u8], address: IpAddr) -> Option<Mac> {
    let from = Mac(frame.get(6..12)?.try_into().ok()?);
    let is = |at: usize, value: &[u8]| frame.get(at..at + value.len()) == Some(value);
    let claims = match address {
        IpAddr::V4(v4) => {
            let (sender, target) = (ETHERNET + 14, ETHERNET + 24);
            let asks_for_itself = is(sender, &[0; 4]) && is(target, &v4.octets());
            is(12, &ARP.to_be_bytes()) && (is(sender, &v4.octets()) || asks_for_itself)
        }
        IpAddr::V6(v6) => {
            let (source, kind, target) = (
                ETHERNET + 8,
                ETHERNET + IPV6_HEADER,
                ETHERNET + IPV6_HEADER + 8,
            );
            let asks_for_itself = is(kind, &[SOLICITATION]) && is(source, &[0; 16]);
            is(12, &IPV6.to_be_bytes())
                && is(ETHERNET + 6, &[ICMPV6])
                && is(target, &v6.octets())
                && (is(kind, &[ADVERTISEMENT]) || asks_for_itself)
        }
    };
    claims.then_some(from)
}

fn arp(from: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, from, ARP);
    // Ethernet, IPv4, and the lengths of their addresses.
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(REQUEST.to_be_bytes());
    frame.extend([&from.0[..], &sender.octets(), &NOBODY.0, &target.octets()].concat());
    frame
}

fn icmpv6(from: Mac, source: Ipv6Addr, group: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let [.., a, b, c, d] = group.octets();
    let mut frame = ethernet(Mac([0x33, 0x33, a, b, c, d]), from, IPV6);
    let length = message.len() as u16;
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // Neighbour discovery takes nothing that has passed a router.
    frame.extend([ICMPV6, 255]);
    frame.extend([source.octets(), group.octets()].concat());
    let mut message = message.to_vec();
    let sum = checksum(&[
        &source.octets(),
        &group.octets(),
        &u32::from(length).to_be_bytes(),
        &[0, 0, 0, ICMPV6],
        &message,
    ]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame.extend(message);
    frame
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes()].concat()
}

/// The Internet checksum (RFC 1071) of parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts
        .iter()
        .flat_map(|part| part.chunks(2))
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0x42, 10, 0, 9, 5]);

    #[test]
    fn only_senders_that_use_an_address_claim_it() {
        for (address, other) in [("10.0.9.5", "10.0.9.6"), ("fd00:9::5", "fd00:9::6")] {
            let (address, other): (IpAddr, IpAddr) =
                (address.parse().unwrap(), other.parse().unwrap());
            for frame in [question(MAC, address), announcement(MAC, address)] {
                assert_eq!(claim(&frame, address), Some(MAC));
                assert_eq!(claim(&frame, other), None);
                assert!((0..30).all(|length| claim(&frame[..length], address).is_none()));
            }
        }
    }

    #[test]
    fn the_checksum_covers_what_it_should() {
        let frame = announcement(MAC, "fd00:9::5".parse().unwrap());
        let (addresses, message) = (&frame[22..54], &frame[54..]);
        let length = (message.len() as u32).to_be_bytes();
        assert_eq!(
            checksum(&[addresses, &length, &[0, 0, 0, ICMPV6], message]),
            0
        );
    }
}
