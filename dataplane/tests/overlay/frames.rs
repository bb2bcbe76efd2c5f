//! Frames that are made by hand.

use super::*;

/// An Ethernet frame with an empty datagram to port 9 in it.
pub fn frame(to: Mac, from: Mac, source: &str, target: &str) -> Vec<u8> {
    datagram(&frame_head(to, from), source, target, 9, &[])
}

pub fn frame_head(to: Mac, from: Mac) -> Vec<u8> {
    [to.0, from.0].concat()
}

/// A datagram behind the two addresses of an Ethernet header.
pub fn datagram(head: &[u8], source: &str, target: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let udp = [[0, 9], port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    let addresses: Vec<IpAddr> = [source, target]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let (ethertype, header) = match (addresses[0], addresses[1]) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let [high, low] = (20 + length).to_be_bytes();
            let start = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0];
            let mut header = [&start[..], &source.octets(), &target.octets()].concat();
            let sum: u32 = header
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
                .sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum + (sum >> 16)) as u16);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            ([8, 0], header)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let [high, low] = length.to_be_bytes();
            let start = [0x60, 0, 0, 0, high, low, 17, 64];
            (
                [0x86, 0xdd],
                [&start[..], &source.octets(), &target.octets()].concat(),
            )
        }
        _ => panic!("one family: {source}, {target}"),
    };
    [head, &ethertype, &header, &udp, payload].concat()
}

/// A question for `asked` that claims that `claimed` is at this Ethernet address (RFC 826).
pub fn arp_claim(sender: Mac, claimed: &str, asked: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let question = [0, 1, 8, 0, 6, 4, 0, 1];
    let ethernet = [&[0xff; 6][..], &sender.0, &[8, 6]].concat();
    [
        &ethernet[..],
        &question,
        &sender.0,
        &octets(claimed),
        &[0; 6],
        &octets(asked),
    ]
    .concat()
}
