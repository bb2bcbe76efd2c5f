//! rtnetlink in one network namespace: dumps and changes. The only place of the data plane that
//! opens rtnetlink sockets; request sockets stay open between passes.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, ErrorKind},
    net::IpAddr,
    os::fd::RawFd,
    sync::Arc,
};

use model::{
    Failure,
    names::{self, LinkName, NAMESPACE_DIRECTORY},
};
use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, Parseable,
};
use netlink_packet_route::{RouteNetlinkMessage as Message, link::LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use super::{
    AGAIN,
    doubt::{Doubt, LinkRef},
    kernel_said,
    namespace::{self, Identity},
    state::{ObservedKind, ObservedLink, Place, Space},
    wire,
};

/// Messages per send: their replies must fit into the socket's receive buffer.
pub(crate) const BATCH: usize = 64;
/// Larger than any datagram of a dump (32 KiB in net/netlink/af_netlink.c).
const DATAGRAM: usize = 64 * 1024;
/// Most attempts at a dump that changes while it is read.
const DUMPS: usize = 8;
/// Types from here on are those of a family; lower ones are netlink's own (linux/netlink.h).
const NLMSG_MIN_TYPE: u16 = 0x10;
/// `NLM_F_DUMP_INTR` of linux/netlink.h.
const DUMP_INTERRUPTED: u16 = 0x10;

/// A kernel that cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    /// The namespaces cannot be listed.
    #[error("cannot list the network namespaces in {NAMESPACE_DIRECTORY}: {0}")]
    List(#[source] io::Error),
    /// No socket in a namespace.
    #[error("cannot open netlink in {0}: {1}")]
    Open(Place, #[source] io::Error),
    /// A dump failed.
    #[error("cannot read {1} of {0}: {2}")]
    Dump(Place, &'static str, #[source] io::Error),
    /// The values below /proc/sys cannot be reached.
    #[error("cannot read /proc/sys of {0}: {1}")]
    Sysctl(Place, #[source] io::Error),
}

impl KernelError {
    /// The same as a failure.
    pub(crate) fn failure(&self) -> Failure {
        let (Self::List(error)
        | Self::Open(_, error)
        | Self::Dump(_, _, error)
        | Self::Sysctl(_, error)) = self;
        let next = match self {
            Self::Open(..) => "netd needs CAP_SYS_ADMIN and CAP_NET_ADMIN",
            Self::List(_) | Self::Dump(..) | Self::Sysctl(..) => AGAIN,
        };
        Failure {
            cause: self.to_string(),
            ..kernel_said(error, next)
        }
        .about("kernel")
    }
}

/// The sockets of one namespace.
pub(crate) struct Channel {
    pub place: Place,
    pub identity: Identity,
    pub namespace: File,
    requests: Socket,
    sequence: u32,
    pub indices: wire::Indices,
    /// What it held when it was read last, and what may have changed since.
    pub seen: Option<Arc<Space<ObservedLink>>>,
    pub doubt: Doubt,
    /// Whether the kernel dumps parts only where it is asked to (`NETLINK_GET_STRICT_CHK`).
    pub dumps_parts: bool,
    /// How many dumps have been taken.
    pub dumps: u64,
    /// Whether it has or should have policy rules of ours.
    pub has_policies: bool,
    /// Whether it has or should have limits of ours.
    pub has_shapes: bool,
    /// Dumps of all objects of a kind that somebody else has just taken.
    pub kept: BTreeMap<&'static str, Vec<Message>>,
}

impl Channel {
    pub(crate) fn open(place: Place, namespace: File, identity: Identity) -> io::Result<Self> {
        let requests = namespace::within_file(&namespace, connect)??;
        // Linux before 4.20 dumps all in any case.
        let dumps_parts = requests.set_netlink_get_strict_chk(true).is_ok();
        let (sequence, indices, seen, dumps) = (0, BTreeMap::new(), None, 0);
        let (has_policies, has_shapes) = (true, true);
        Ok(Self {
            place,
            identity,
            namespace,
            requests,
            sequence,
            indices,
            seen,
            doubt: Doubt::default(),
            dumps_parts,
            dumps,
            has_policies,
            has_shapes,
            kept: BTreeMap::new(),
        })
    }

    /// Keeps a dump for who reads the whole namespace next.
    pub(crate) fn keep(&mut self, what: &'static str, messages: Vec<Message>) {
        self.kept.insert(what, messages);
    }

    /// The dump that was kept, or a fresh one.
    pub(crate) fn dump_or_kept(
        &mut self,
        what: &'static str,
        request: Message,
    ) -> Result<Vec<Message>, KernelError> {
        match self.kept.remove(what) {
            Some(kept) => Ok(kept),
            None => self.dump(what, request),
        }
    }

    /// Whether it has devices of which the kernel tells a number of the host's.
    pub(crate) fn has_parents(&self) -> bool {
        let mut links = self.seen.iter().flat_map(|space| &space.links);
        let born_with = names::loopback_link();
        links.any(|(name, link)| {
            matches!(link.kind, ObservedKind::Stacked(_) | ObservedKind::Other)
                && *name != born_with
        })
    }

    /// What another namespace, an open file, is called here.
    pub(crate) fn number(&mut self, namespace: RawFd) -> io::Result<i32> {
        let answers = self.exchange(wire::get_number(namespace), NLM_F_ACK)?;
        answers
            .iter()
            .find_map(wire::number)
            .ok_or_else(|| missing("the namespace has got no number".to_owned()))
    }

    /// A link's number.
    pub(crate) fn index(&mut self, link: &LinkName) -> io::Result<u32> {
        if let Some(&index) = self.indices.get(link) {
            return Ok(index);
        }
        let found = self.ask_link(&LinkRef::Name(link.clone()))?;
        let found = found.as_ref().and_then(wire::link_name);
        let (index, _) = found.ok_or_else(|| missing(format!("there is no link {link}")))?;
        self.indices.insert(link.clone(), index);
        Ok(index)
    }

    /// One link as it is; `None`: there is none.
    pub(crate) fn ask_link(&mut self, link: &LinkRef) -> io::Result<Option<LinkMessage>> {
        match self.exchange(wire::get_link(link), NLM_F_ACK) {
            Ok(found) => Ok(found.into_iter().find_map(|message| match message {
                Message::NewLink(link) => Some(link),
                _ => None,
            })),
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Dumps, and repeats an inconsistent dump (`NLM_F_DUMP_INTR`): it may lack existing links,
    /// which would then be torn down by mistake.
    pub(crate) fn dump(
        &mut self,
        what: &'static str,
        request: Message,
    ) -> Result<Vec<Message>, KernelError> {
        self.dumps += 1;
        let mut result = self.exchange(request.clone(), NLM_F_DUMP);
        for _ in 1..DUMPS {
            if !result
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::Interrupted)
            {
                break;
            }
            result = self.exchange(request.clone(), NLM_F_DUMP);
        }
        result.map_err(|error| KernelError::Dump(self.place, what, error))
    }

    /// A request, and what is answered up to its end: the flags ask for one.
    fn exchange(&mut self, request: Message, flags: u16) -> io::Result<Vec<Message>> {
        let first = self.sequence.wrapping_add(1);
        self.transmit(vec![(request, flags)], NLM_F_REQUEST)?;
        let (mut found, mut torn) = (Vec::new(), false);
        loop {
            for (header, payload) in receive(&self.requests)? {
                torn |= header.flags & DUMP_INTERRUPTED != 0;
                match payload {
                    _ if header.sequence_number != first => {}
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Done(_) if torn => {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(found),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// The MTU towards each of these addresses: its route's, or that of the link that the route
    /// leads out of.
    pub(crate) fn paths(
        &mut self,
        own: IpAddr,
        peers: &BTreeSet<IpAddr>,
        mtus: &BTreeMap<u32, u32>,
    ) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        let failed = |error| KernelError::Dump(Place::Host, "the way to other hosts", error);
        let mut paths = BTreeMap::new();
        for peers in peers.iter().copied().collect::<Vec<_>>().chunks(BATCH) {
            let first = self.sequence.wrapping_add(1);
            let requests = peers
                .iter()
                .map(|&peer| (wire::get_route(own, peer), 0))
                .collect();
            self.transmit(requests, NLM_F_REQUEST).map_err(failed)?;
            let mut waiting: BTreeMap<u32, IpAddr> = (0..)
                .map(|at| first.wrapping_add(at))
                .zip(peers.to_vec())
                .collect();
            while !waiting.is_empty() {
                for (header, payload) in receive(&self.requests).map_err(failed)? {
                    let Some(peer) = waiting.remove(&header.sequence_number) else {
                        continue;
                    };
                    // A peer without a route is unreachable anyway.
                    let NetlinkPayload::InnerMessage(Message::NewRoute(route)) = payload else {
                        continue;
                    };
                    paths.extend(wire::path_mtu(&route, mtus).map(|mtu| (peer, mtu)));
                }
            }
        }
        Ok(paths)
    }

    /// Sends requests at once and returns their answers in order.
    pub(crate) fn ask(&mut self, requests: Vec<(Message, u16)>) -> Vec<io::Result<()>> {
        // Links may come and go with these; numbers are looked up again.
        let changes_links = |(request, _): &(Message, u16)| {
            matches!(request, Message::NewLink(_) | Message::DelLink(_))
        };
        if requests.iter().any(changes_links) {
            self.indices.clear();
        }
        let count = requests.len();
        let first = self.sequence.wrapping_add(1);
        match self
            .transmit(requests, NLM_F_REQUEST | NLM_F_ACK)
            .and_then(|()| self.answers(first, count))
        {
            Ok(answers) => answers,
            Err(error) => (0..count)
                .map(|_| Err(io::Error::new(error.kind(), error.to_string())))
                .collect(),
        }
    }

    fn answers(&mut self, first: u32, count: usize) -> io::Result<Vec<io::Result<()>>> {
        let mut answers: Vec<Option<io::Result<()>>> = (0..count).map(|_| None).collect();
        while answers.iter().any(Option::is_none) {
            for (header, payload) in receive(&self.requests)? {
                let NetlinkPayload::Error(error) = payload else {
                    continue;
                };
                if let Some(answer) =
                    answers.get_mut(header.sequence_number.wrapping_sub(first) as usize)
                {
                    *answer = Some(if error.code.is_none() {
                        Ok(())
                    } else {
                        Err(error.to_io())
                    });
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn transmit(&mut self, requests: Vec<(Message, u16)>, flags: u16) -> io::Result<()> {
        let mut buffer = Vec::new();
        for (request, more) in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = flags | more;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
            message.finalize();
            let start = buffer.len();
            buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut buffer[start..start + message.buffer_len()]);
        }
        self.requests.send(&buffer, 0).map(drop)
    }
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // A refusal need not carry the request back.
    socket.set_cap_ack(true)?;
    Ok(socket)
}

/// A socket that hears what these groups tell.
pub(crate) fn listen(groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    groups
        .iter()
        .try_for_each(|&group| socket.add_membership(group))?;
    Ok(socket)
}

type Received = (NetlinkHeader, NetlinkPayload<Message>);

/// The messages of the next datagram.
fn receive(socket: &Socket) -> io::Result<Vec<Received>> {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(DATAGRAM)));
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        socket.recv(buffer, 0)?;
        messages(buffer)
    })
}

/// The messages of one datagram. Containers name their links, and alternative names and attributes
/// may be of kinds that are not known here: what cannot be read is none of ours, and is left out.
fn messages(mut datagram: &[u8]) -> io::Result<Vec<Received>> {
    let invalid = |error: DecodeError| io::Error::new(ErrorKind::InvalidData, error.to_string());
    let mut found = Vec::new();
    while !datagram.is_empty() {
        let frame = NetlinkBuffer::new_checked(&datagram).map_err(invalid)?;
        match NetlinkMessage::<Message>::deserialize(datagram) {
            Ok(message) => found.push((message.header, message.payload)),
            // Who waits for an answer to a request has one.
            Err(_) if frame.message_type() >= NLMSG_MIN_TYPE => {
                let header = NetlinkHeader::parse(&frame).map_err(invalid)?;
                found.push((header, NetlinkPayload::Noop));
            }
            Err(error) => return Err(invalid(error)),
        }
        let length = (frame.length() as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(found)
}

/// What a request needs and the kernel has not.
pub(crate) fn missing(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkAttribute;
    use proptest::prelude::*;

    use super::*;

    /// A link's message, with a name of these bytes.
    fn link(sequence: u32, name: &str) -> Vec<u8> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let mut header = NetlinkHeader::default();
        header.sequence_number = sequence;
        let payload = NetlinkPayload::InnerMessage(Message::NewLink(message));
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
        let length = message.buffer_len();
        message.serialize(&mut bytes[..length]);
        bytes
    }

    #[test]
    fn a_message_that_cannot_be_read_hides_no_other() {
        let mut hostile = link(2, "bad");
        let name = hostile.windows(3).position(|bytes| bytes == b"bad");
        hostile[name.unwrap()] = 0xff;
        let datagram = [link(1, "one"), hostile, link(3, "two")].concat();
        let found = messages(&datagram).unwrap();
        let numbers = found.iter().map(|(header, payload)| {
            let is_read = matches!(payload, NetlinkPayload::InnerMessage(_));
            (header.sequence_number, is_read)
        });
        let numbers: Vec<_> = numbers.collect();
        assert_eq!(numbers, [(1, true), (2, false), (3, true)]);
    }

    proptest! {
        #[test]
        fn no_datagram_does_harm(
            sound in 0_usize..3,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
        ) {
            let mut datagram = link(1, "sound").repeat(sound);
            datagram.extend(&bytes);
            let _ = messages(&datagram);
            if !datagram.is_empty() {
                let at = at.index(datagram.len());
                datagram[at] ^= 0x55;
                let _ = messages(&datagram);
            }
        }
    }
}
