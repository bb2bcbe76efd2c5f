//! Who takes calls at ports of this host, asked of the kernel by sock_diag(7).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use model::Protocol;
use nftables::{Failure, Socket};
use nix::libc::{AF_INET, AF_INET6, NETLINK_SOCK_DIAG, NLM_F_DUMP, NLM_F_REQUEST};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// States by their bits (include/net/tcp_states.h): a socket of TCP that listens, and one of UDP
/// that is connected to nobody.
const LISTEN: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;
/// Of `nlmsghdr`, and of what follows in `inet_diag_msg` before the port.
const HEADER: usize = 16;
const PORT: usize = HEADER + 4;
const ADDRESS: usize = PORT + 4;
/// `struct inet_diag_req_v2` behind its first eight bytes: any socket.
const ANY: [u8; 48] = [0; 48];

/// The addresses and ports of a protocol in the network namespace of the calling thread at which
/// a socket takes calls.
pub(crate) fn listening(protocol: Protocol) -> io::Result<Vec<SocketAddr>> {
    let mut socket = Socket::to(NETLINK_SOCK_DIAG as isize)?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let sequence = socket.take(1);
        let answers = socket.exchange(sequence, &question(sequence, family as u8, protocol));
        let answers = answers.map_err(|failure| match failure {
            Failure::Socket(error) => error,
            Failure::Refused(errno) => errno.into(),
            Failure::Interrupted => io::ErrorKind::Interrupted.into(),
        })?;
        found.extend(answers.iter().filter_map(|answer| address(answer)));
    }
    Ok(found)
}

fn question(sequence: u32, family: u8, protocol: Protocol) -> Vec<u8> {
    let states = match protocol {
        Protocol::Udp => UNCONNECTED,
        Protocol::Tcp | Protocol::Sctp => LISTEN,
    };
    let mut body = vec![family, protocol.number(), 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(ANY);
    let mut message = Vec::new();
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(((NLM_F_REQUEST | NLM_F_DUMP) as u16).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    message
}

fn address(answer: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(answer.get(PORT..PORT + 2)?.try_into().ok()?);
    let bytes: [u8; 16] = answer.get(ADDRESS..ADDRESS + 16)?.try_into().ok()?;
    let address = if i32::from(*answer.get(HEADER)?) == AF_INET {
        let [a, b, c, d, ..] = bytes;
        IpAddr::from(Ipv4Addr::new(a, b, c, d))
    } else {
        Ipv6Addr::from(bytes).to_canonical()
    };
    Some((address, port).into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn sockets_that_take_calls_are_seen_and_no_others() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let found = listening(Protocol::Tcp).unwrap();
        assert!(found.contains(&server.local_addr().unwrap()));
        assert!(!found.contains(&client.local_addr().unwrap()));
        let server = UdpSocket::bind("[::1]:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.1:9").unwrap();
        let found = listening(Protocol::Udp).unwrap();
        assert!(found.contains(&server.local_addr().unwrap()));
        assert!(!found.contains(&client.local_addr().unwrap()));
    }
}
