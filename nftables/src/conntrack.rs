//! Deletes tracked connections by ctnetlink: a connection to a removed server would go there as
//! long as its client sends.

use std::{io, net::IpAddr};

use nix::{
    errno::Errno,
    libc::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST},
};

use super::{
    Family, NftError, Socket, address,
    kernel::Failure,
    wire::{Attributes, Message, NESTED},
};

/// `NFNL_SUBSYS_CTNETLINK`, with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// `IPCTNL_MSG_CT_GET_STATS`.
const STATS: u16 = 1 << 8 | 5;
/// Attributes of `linux/netfilter/nfnetlink_conntrack.h`, without `CTA_`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_SOURCE: [u16; 2] = [1, 3];
const IP_DESTINATION: [u16; 2] = [2, 4];
const PROTO_NUM: u16 = 1;
const PROTO_DESTINATION: u16 = 3;
const DUMPS: usize = 8;
/// `IPS_SEEN_REPLY`.
const SEEN_REPLY: u32 = 1 << 1;
/// `IPS_DST_NAT`.
const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// A tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Transport protocol.
    pub protocol: u8,
    /// Whom the client calls.
    pub destination: IpAddr,
    /// At which port; 0 where the protocol has none.
    pub port: u16,
    /// Who answers.
    pub server: IpAddr,
    /// Whether nftables has translated the one to the other.
    pub translated: bool,
    /// Whether the server has said anything yet.
    pub answered: bool,
}

/// Asks for tracked connections so that a kernel with modules loads what tracks them.
pub fn load(socket: &mut Socket) {
    let sequence = socket.take(1);
    let request = Message::new(STATS, (NLM_F_REQUEST | NLM_F_ACK) as u16, sequence, None).finish();
    let _ = socket.exchange(sequence, &request);
}

/// How many connections are stale.
pub fn count(socket: &mut Socket, stale: impl Fn(&Connection) -> bool) -> Result<usize, NftError> {
    let found = list(socket).map_err(failed)?;
    Ok(found
        .iter()
        .filter(|message| connection(message).is_some_and(|found| stale(&found)))
        .count())
}

/// Forgets the connections that are stale. Returns how many.
pub fn forget(socket: &mut Socket, stale: impl Fn(&Connection) -> bool) -> Result<usize, NftError> {
    let found = list(socket).map_err(failed)?;
    let deletions = found
        .iter()
        .filter(|message| connection(message).is_some_and(|found| stale(&found)));
    let mut count = 0;
    for message in deletions {
        match delete(socket, message) {
            // It has ended by itself.
            Ok(()) | Err(Failure::Refused(Errno::ENOENT)) => count += 1,
            Err(failure) => return Err(failed(failure)),
        }
    }
    Ok(count)
}

fn failed(failure: Failure) -> NftError {
    NftError::Connections(match failure {
        Failure::Socket(error) => error,
        Failure::Refused(errno) => errno.into(),
        Failure::Interrupted => io::ErrorKind::Interrupted.into(),
    })
}

/// A dump that was interrupted is taken again.
fn list(socket: &mut Socket) -> Result<Vec<Vec<u8>>, Failure> {
    let mut result = Err(Failure::Interrupted);
    for _ in 0..DUMPS {
        let sequence = socket.take(1);
        let request =
            Message::new(GET, (NLM_F_REQUEST | NLM_F_DUMP) as u16, sequence, None).finish();
        result = socket.exchange(sequence, &request);
        if !matches!(result, Err(Failure::Interrupted)) {
            break;
        }
    }
    result
}

fn connection(message: &[u8]) -> Option<Connection> {
    let attributes = Attributes::of_message(message);
    let (original, reply) = (
        attributes.nested(TUPLE_ORIG)?,
        attributes.nested(TUPLE_REPLY)?,
    );
    let ip = |tuple: &Attributes<'_>, kinds: [u16; 2]| {
        let ip = tuple.nested(TUPLE_IP)?;
        kinds.into_iter().find_map(|kind| address(ip.bytes(kind)?))
    };
    let transport = original.nested(TUPLE_PROTO)?;
    let port = transport
        .bytes(PROTO_DESTINATION)
        .and_then(|port| port.try_into().ok())
        .map_or(0, u16::from_be_bytes);
    Some(Connection {
        protocol: *transport.bytes(PROTO_NUM)?.first()?,
        port,
        destination: ip(&original, IP_DESTINATION)?,
        server: ip(&reply, IP_SOURCE)?,
        translated: attributes.u32(STATUS)? & DESTINATION_TRANSLATED != 0,
        answered: attributes.u32(STATUS)? & SEEN_REPLY != 0,
    })
}

fn delete(socket: &mut Socket, found: &[u8]) -> Result<(), Failure> {
    let attributes = Attributes::of_message(found);
    let is_v6 = connection(found).is_some_and(|found| found.destination.is_ipv6());
    let family = if is_v6 { Family::Ip6 } else { Family::Ip };
    let sequence = socket.take(1);
    let mut message = Message::new(
        DELETE,
        (NLM_F_REQUEST | NLM_F_ACK) as u16,
        sequence,
        Some(family),
    );
    message.bytes(
        TUPLE_ORIG | NESTED,
        attributes.bytes(TUPLE_ORIG).unwrap_or_default(),
    );
    // So that another one, of the same addresses and ports but later, is spared.
    message.bytes(ID, attributes.bytes(ID).unwrap_or_default());
    socket.exchange(sequence, &message.finish()).map(drop)
}
