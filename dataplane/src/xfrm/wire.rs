//! Translates between our types and the messages of `NETLINK_XFRM` (linux/xfrm.h). Pure: opens no
//! socket. Hand-written, because the only crate for it prints keys in its `Debug` and needs older
//! netlink crates.

use std::net::IpAddr;

use model::{EspKey, Spi};
use nftables::Ip;

use super::plan::{
    Association, Direction, ObservedAssociation, Policy, Traffic, Usage, Verdict, Way,
};

/// Marks our associations and templates: "netd".
pub(super) const REQUEST_ID: u32 = 0x6e65_7464;
/// What a policy of ours for one pair of hosts, and one for everybody else, come before: anybody
/// else's (lower wins).
const PRIORITY_OF_PAIR: u32 = 0x6e64;
const PRIORITY_OF_REST: u32 = 0x6e65;

/// Sizes of the structures of linux/xfrm.h on a 64-bit machine.
const SELECTOR: usize = 56;
const SA_INFO: usize = 224;
const POLICY_INFO: usize = 168;
const TEMPLATE: usize = 64;
const HEADER: usize = 16;

const ESP: u8 = 50;
const UDP: u8 = 17;
const TRANSPORT: u8 = 0;
const FLAG_ESN: u8 = 128;
const ALGORITHM: &[u8] = b"rfc4106(gcm(aes))";
const ALGORITHM_NAME: usize = 64;
const KEY_BITS: u32 = 36 * 8;
const CHECK_BITS: u32 = 128;
/// How far behind the newest packet one may arrive, in packets; a multiple of 32.
const REPLAY_WINDOW: u32 = 1024;
const REPLAY_WORDS: u32 = REPLAY_WINDOW / 32;
const NEVER: u64 = u64::MAX;

const ALLOW: u8 = 0;
const BLOCK: u8 = 1;

/// `XFRM_MSG_*`.
mod kind {
    pub(super) const NEW_SA: u16 = 0x10;
    pub(super) const DELETE_SA: u16 = 0x11;
    pub(super) const GET_SA: u16 = 0x12;
    pub(super) const NEW_POLICY: u16 = 0x13;
    pub(super) const DELETE_POLICY: u16 = 0x14;
    pub(super) const GET_POLICY: u16 = 0x15;
    pub(super) const UPDATE_POLICY: u16 = 0x19;
}

/// `XFRMA_*`.
mod attribute {
    pub(super) const TEMPLATE: u16 = 5;
    pub(super) const POLICY_TYPE: u16 = 16;
    pub(super) const LAST_USED: u16 = 15;
    pub(super) const AEAD: u16 = 18;
    pub(super) const MARK: u16 = 21;
    pub(super) const REPLAY_ESN: u16 = 23;
    pub(super) const INTERFACE: u16 = 31;
    pub(super) const ENCAPSULATION: u16 = 4;
    pub(super) const OFFLOAD: u16 = 28;
}

/// Multicast groups (`XFRMNLGRP_*`): what expires, associations, policies.
pub(super) const GROUPS: [u32; 3] = [2, 3, 4];

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE_NEW: u16 = 0x600;

/// A message under construction, or a structure of one.
struct Bytes(Vec<u8>);

impl Bytes {
    fn message(kind: u16, flags: u16) -> Self {
        let mut bytes = Self(vec![0; HEADER]);
        bytes.put_at(4, &kind.to_ne_bytes());
        bytes.put_at(6, &(REQUEST | flags).to_ne_bytes());
        bytes
    }

    fn put_at(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    fn put(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }

    fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// An IPv4 address takes the first of sixteen bytes (`xfrm_address_t`).
    fn address(&mut self, address: Option<IpAddr>) -> &mut Self {
        let octets = match address {
            Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
            Some(IpAddr::V6(v6)) => v6.octets().to_vec(),
            None => Vec::new(),
        };
        self.put(&octets).zeros(16 - octets.len())
    }

    /// `struct xfrm_lifetime_cfg`: nothing ends by itself.
    fn endless(&mut self) -> &mut Self {
        let limits = [NEVER.to_ne_bytes(); 4];
        self.put(limits.as_flattened()).zeros(32)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.put(&(value.len() as u16 + 4).to_ne_bytes())
            .put(&kind.to_ne_bytes())
            .put(value);
        self.align()
    }

    fn align(&mut self) -> &mut Self {
        self.zeros(self.0.len().next_multiple_of(4) - self.0.len())
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.put_at(0, &length.to_ne_bytes());
        self.0
    }
}

/// Numbers a message of ours.
pub(super) fn number(message: &mut [u8], sequence: u32) {
    if let Some(place) = message.get_mut(8..12) {
        place.copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// Asks for every association.
pub(super) fn get_associations() -> Vec<u8> {
    Bytes::message(kind::GET_SA, DUMP).finish()
}

/// Asks for every policy.
pub(super) fn get_policies() -> Vec<u8> {
    Bytes::message(kind::GET_POLICY, DUMP).finish()
}

fn family(version: Ip) -> [u8; 2] {
    let family = match version {
        Ip::V4 => nix::libc::AF_INET,
        Ip::V6 => nix::libc::AF_INET6,
    };
    (family as u16).to_ne_bytes()
}

/// Adds an association; fails where there is one of this number to this destination.
pub(super) fn add_association(new: &Association) -> Vec<u8> {
    let mut message = Bytes::message(kind::NEW_SA, ACKNOWLEDGE | CREATE_NEW);
    let version = Ip::of(new.to);
    // The selector: any. Its family is the association's.
    message.zeros(40).put(&family(version)).zeros(SELECTOR - 42);
    message
        .address(Some(new.to))
        .put(&new.spi.0.to_be_bytes())
        .put(&[ESP, 0, 0, 0])
        .address(Some(new.from));
    message
        .endless()
        .zeros(32 + 12)
        .zeros(4)
        .put(&REQUEST_ID.to_ne_bytes())
        .put(&family(version));
    message.put(&[TRANSPORT, 0, FLAG_ESN]).zeros(7);
    message.attribute(attribute::AEAD, &aead(&new.key));
    message.attribute(attribute::REPLAY_ESN, &replay());
    message.finish()
}

/// `struct xfrm_algo_aead`.
fn aead(key: &EspKey) -> Vec<u8> {
    let mut bytes = Bytes(ALGORITHM.to_vec());
    bytes
        .zeros(ALGORITHM_NAME - ALGORITHM.len())
        .put(&KEY_BITS.to_ne_bytes())
        .put(&CHECK_BITS.to_ne_bytes());
    bytes.put(key.secret());
    bytes.0
}

/// `struct xfrm_replay_state_esn` of an association that nothing has been sent with.
fn replay() -> Vec<u8> {
    let mut bytes = Bytes(REPLAY_WORDS.to_ne_bytes().to_vec());
    bytes
        .zeros(16)
        .put(&REPLAY_WINDOW.to_ne_bytes())
        .zeros(REPLAY_WORDS as usize * 4);
    bytes.0
}

/// Deletes the association of this number to this destination.
pub(super) fn delete_association(to: IpAddr, spi: Spi) -> Vec<u8> {
    let mut message = Bytes::message(kind::DELETE_SA, ACKNOWLEDGE);
    message
        .address(Some(to))
        .put(&spi.0.to_be_bytes())
        .put(&family(Ip::of(to)))
        .put(&[ESP, 0]);
    message.finish()
}

/// Adds a policy, or puts it in the place of the one for the same traffic: packets meet either.
pub(super) fn set_policy(way: &Way, policy: &Policy) -> Vec<u8> {
    let mut message = Bytes::message(kind::UPDATE_POLICY, ACKNOWLEDGE);
    selector(&mut message, way);
    let action = if policy.verdict == Verdict::Block {
        BLOCK
    } else {
        ALLOW
    };
    message
        .endless()
        .zeros(32)
        .put(&priority(way).to_ne_bytes())
        .zeros(4);
    message.put(&[way.direction.code(), action, 0, 0]).zeros(4);
    if let Verdict::Protect { from, to, spi } = policy.verdict {
        let mut template = Bytes(Vec::new());
        let number = spi.map_or(0, |spi| spi.0);
        template
            .address(Some(to))
            .put(&number.to_be_bytes())
            .put(&[ESP, 0, 0, 0]);
        template
            .put(&family(Ip::of(to)))
            .zeros(2)
            .address(Some(from))
            .put(&REQUEST_ID.to_ne_bytes());
        template.put(&[TRANSPORT, 0, 0, 0]).put(&[0xff; 12]);
        message.attribute(attribute::TEMPLATE, &template.0);
    }
    message.finish()
}

/// Deletes the policy of this number, as the kernel counts them.
pub(super) fn delete_policy(way: &Way, index: u32) -> Vec<u8> {
    let mut message = Bytes::message(kind::DELETE_POLICY, ACKNOWLEDGE);
    selector(&mut message, way);
    message
        .put(&index.to_ne_bytes())
        .put(&[way.direction.code(), 0, 0, 0]);
    message.finish()
}

fn priority(way: &Way) -> u32 {
    if way.traffic == Traffic::Any {
        PRIORITY_OF_REST
    } else {
        PRIORITY_OF_PAIR
    }
}

/// `struct xfrm_selector`.
fn selector(message: &mut Bytes, way: &Way) {
    let (from, to, bits) = match way.traffic {
        Traffic::Any => (None, None, 0),
        Traffic::Between { from, to } => {
            (Some(from), Some(to), if to.is_ipv6() { 128 } else { 32 })
        }
    };
    message
        .address(to)
        .address(from)
        .put(&way.port.to_be_bytes())
        .put(&[0xff; 2])
        .zeros(4);
    message
        .put(&family(way.version))
        .put(&[bits, bits, UDP])
        .zeros(3 + 8);
}

impl Direction {
    fn code(self) -> u8 {
        match self {
            Direction::In => 0,
            Direction::Out => 1,
        }
    }
}

/// What the kernel says.
#[derive(Debug)]
pub(super) enum Answer {
    /// The end of a dump, or that all is well.
    Done,
    /// A refusal: its errno.
    Refused(i32),
    /// An association that bears our mark.
    Association(Box<ObservedAssociation>),
    /// A policy of ours: its number among the kernel's.
    Policy(Way, Policy, u32),
    /// Something that is not ours.
    Foreign,
}

/// The answers in one datagram, each with the number of the request that it belongs to.
pub(super) fn answers(datagram: &[u8]) -> Vec<(u32, Answer)> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Some(length) = View(rest).u32(0).map(|length| length as usize) {
        let Some(message) = rest.get(..length).filter(|_| length >= HEADER) else {
            break;
        };
        let (header, body) = message.split_at(HEADER);
        let (kind, sequence) = (
            View(header).u16(4).unwrap_or(0),
            View(header).u32(8).unwrap_or(0),
        );
        found.push((sequence, answer(kind, View(body))));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn answer(message: u16, body: View<'_>) -> Answer {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    match message {
        DONE => Answer::Done,
        ERROR => match body.u32(0).map(|code| code as i32) {
            Some(0) => Answer::Done,
            code => Answer::Refused(-code.unwrap_or(-nix::libc::EPROTO)),
        },
        kind::NEW_SA => association(body).map_or(Answer::Foreign, |found| {
            Answer::Association(Box::new(found))
        }),
        kind::NEW_POLICY => policy(body).map_or(Answer::Foreign, |(way, policy, index)| {
            Answer::Policy(way, policy, index)
        }),
        _ => Answer::Foreign,
    }
}

/// Bytes that the kernel sent; what lies behind their end is absent.
#[derive(Clone, Copy)]
struct View<'a>(&'a [u8]);

impl<'a> View<'a> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at + N)?.try_into().ok()
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_ne_bytes)
    }

    fn address(&self, at: usize, version: Ip) -> Option<IpAddr> {
        match version {
            Ip::V4 => self.array::<4>(at).map(IpAddr::from),
            Ip::V6 => self.array::<16>(at).map(IpAddr::from),
        }
    }

    fn is_endless(&self, at: usize) -> bool {
        let limits = (0..4).all(|limit| self.u64(at + 8 * limit) == Some(NEVER));
        limits && (4..8).all(|limit| self.u64(at + 8 * limit) == Some(0))
    }

    /// The attributes behind a structure of this size.
    fn attributes(&self, start: usize) -> Vec<(u16, View<'a>)> {
        let mut found = Vec::new();
        let mut rest = View(self.0.get(start..).unwrap_or_default());
        while let (Some(length), Some(kind)) = (rest.u16(0).map(usize::from), rest.u16(2)) {
            let Some(value) = rest.0.get(4..length) else {
                break;
            };
            found.push((kind, View(value)));
            rest = View(rest.0.get(length.next_multiple_of(4)..).unwrap_or_default());
        }
        found
    }
}

fn version(family: u16) -> Option<Ip> {
    match i32::from(family) {
        nix::libc::AF_INET => Some(Ip::V4),
        nix::libc::AF_INET6 => Some(Ip::V6),
        _ => None,
    }
}

/// An association that bears our mark, whatever it looks like otherwise.
fn association(body: View<'_>) -> Option<ObservedAssociation> {
    if body.u32(208)? != REQUEST_ID || body.u8(76)? != ESP {
        return None;
    }
    let version = version(body.u16(212)?)?;
    let mut found = ObservedAssociation {
        association: Association {
            from: body.address(80, version)?,
            to: body.address(56, version)?,
            spi: Spi(u32::from_be_bytes(body.array(72)?)),
            key: EspKey::new([0; 36]),
        },
        regular: false,
        usage: Usage {
            bytes: body.u64(160)?,
            packets: body.u64(168)?,
            first_used: body.u64(184)?,
            last_used: 0,
            late: body.u32(192)?,
            replayed: body.u32(196)?,
            forged: body.u32(200)?,
        },
    };
    let any = body
        .0
        .get(..40)?
        .iter()
        .chain(body.0.get(42..SELECTOR)?)
        .all(|byte| *byte == 0);
    let form = [body.u8(214)?, body.u8(216)?] == [TRANSPORT, FLAG_ESN];
    let (mut key, mut window, mut plain) = (None, None, true);
    for (kind, value) in body.attributes(SA_INFO) {
        match kind {
            attribute::AEAD => key = read_aead(value),
            attribute::REPLAY_ESN => {
                window = value.u32(20).filter(|_| value.u32(0) == Some(REPLAY_WORDS))
            }
            attribute::LAST_USED => found.usage.last_used = value.u64(0).unwrap_or(0),
            attribute::ENCAPSULATION
            | attribute::MARK
            | attribute::OFFLOAD
            | attribute::INTERFACE => plain = false,
            _ => {}
        }
    }
    let endless = body.is_endless(96);
    found.regular =
        any && form && endless && plain && key.is_some() && window == Some(REPLAY_WINDOW);
    found.association.key = key.unwrap_or(found.association.key);
    Some(found)
}

fn read_aead(value: View<'_>) -> Option<EspKey> {
    let (name, rest) = value.0.split_at_checked(ALGORITHM_NAME)?;
    let (name, padding) = name.split_at(ALGORITHM.len());
    let ours = name == ALGORITHM && padding.iter().all(|byte| *byte == 0);
    let rest = View(rest);
    let sizes = (rest.u32(0)?, rest.u32(4)?) == (KEY_BITS, CHECK_BITS);
    rest.array::<36>(8)
        .filter(|_| ours && sizes)
        .map(EspKey::new)
}

/// A policy of ours: its priority and the shape of its selector tell.
fn policy(body: View<'_>) -> Option<(Way, Policy, u32)> {
    let version = version(body.u16(40)?)?;
    let bits = if version == Ip::V6 { 128 } else { 32 };
    let traffic = match (body.u8(42)?, body.u8(43)?) {
        (0, 0) => Traffic::Any,
        (to, from) if (to, from) == (bits, bits) => Traffic::Between {
            from: body.address(16, version)?,
            to: body.address(0, version)?,
        },
        _ => return None,
    };
    let direction = match body.u8(160)? {
        0 => Direction::In,
        1 => Direction::Out,
        _ => return None,
    };
    let way = Way {
        direction,
        version,
        traffic,
        port: u16::from_be_bytes(body.array(32)?),
    };
    let ports = body.array(34)? == [0xff, 0xff, 0, 0, 0, 0];
    let unbound = body.0.get(45..SELECTOR)?.iter().all(|byte| *byte == 0);
    if body.u8(44)? != UDP || !ports || !unbound || body.u32(152)? != priority(&way) {
        return None;
    }
    let (mut templates, mut main) = (Vec::new(), true);
    for (kind, value) in body.attributes(POLICY_INFO) {
        match kind {
            attribute::TEMPLATE => templates = value.0.chunks(TEMPLATE).map(View).collect(),
            attribute::POLICY_TYPE => main = value.u8(0) == Some(0),
            attribute::MARK | attribute::INTERFACE => main = false,
            _ => {}
        }
    }
    if !main {
        return None;
    }
    let regular = body.is_endless(56) && body.u8(162)? == 0 && body.u8(163)? == 0;
    let verdict = match (body.u8(161)?, &templates[..]) {
        (BLOCK, []) if regular => Verdict::Block,
        (ALLOW, [template]) if regular => protection(*template).unwrap_or(Verdict::Other),
        _ => Verdict::Other,
    };
    Some((way, Policy { verdict }, body.u32(156)?))
}

fn protection(template: View<'_>) -> Option<Verdict> {
    let version = version(template.u16(24)?)?;
    let rest = template.array(48)? == [TRANSPORT, 0, 0, 0] && template.array(52)? == [0xff; 12];
    let ours = template.u8(20)? == ESP && template.u32(44)? == REQUEST_ID;
    let spi = Some(Spi(u32::from_be_bytes(template.array(16)?))).filter(|spi| spi.0 != 0);
    let (from, to) = (
        template.address(28, version)?,
        template.address(0, version)?,
    );
    (ours && rest).then_some(Verdict::Protect { from, to, spi })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as the kernel would show what it made: the same structures under another kind.
    fn shown(mut message: Vec<u8>, kind: u16) -> Answer {
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        answers(&message).remove(0).1
    }

    fn association_of(from: &str, to: &str) -> Association {
        let key = EspKey::new(std::array::from_fn(|at| at as u8 + 1));
        Association {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            spi: Spi(0x1234),
            key,
        }
    }

    #[test]
    fn associations_of_both_families_are_read_as_they_are_written() {
        for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let new = association_of(from, to);
            let message = add_association(&new);
            assert_eq!(message.len(), HEADER + SA_INFO + (4 + 108) + (4 + 24 + 128));
            let Answer::Association(found) = shown(message, kind::NEW_SA) else {
                panic!("not ours")
            };
            assert_eq!((found.association, found.regular), (new, true));
        }
    }

    #[test]
    fn every_changed_byte_makes_another_association() {
        let new = association_of("192.0.2.1", "192.0.2.2");
        let message = add_association(&new);
        // What the kernel counts: use, statistics, sequence numbers; and padding.
        let counted = |at: usize| (160..208).contains(&at) || (217..224).contains(&at) || at == 215;
        let padding =
            |at: usize| (77..80).contains(&at) || (60..72).contains(&at) || (84..96).contains(&at);
        let replay = HEADER + SA_INFO + 4 + 108 + 4;
        for at in HEADER..message.len() {
            let body = at - HEADER;
            let state = (replay + 4..replay + 20).contains(&at) || at >= replay + 24;
            let length = (240..244).contains(&at) || (replay - 4..replay).contains(&at);
            if counted(body) || padding(body) || state || length || (40..42).contains(&body) {
                continue;
            }
            let mut changed = message.clone();
            changed[at] ^= 1;
            if let Answer::Association(found) = shown(changed, kind::NEW_SA) {
                assert!(
                    !found.regular || found.association != new,
                    "byte {body} is not looked at"
                );
            }
        }
    }

    #[test]
    fn policies_are_read_as_they_are_written_and_others_are_foreign() {
        let (from, to) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let ways = [
            (Direction::Out, Traffic::Any, Verdict::Block),
            (Direction::In, Traffic::Any, Verdict::Block),
            (
                Direction::Out,
                Traffic::Between { from, to },
                Verdict::Protect {
                    from,
                    to,
                    spi: Some(Spi(0x1234)),
                },
            ),
            (
                Direction::In,
                Traffic::Between { from, to },
                Verdict::Protect {
                    from,
                    to,
                    spi: None,
                },
            ),
        ];
        for (direction, traffic, verdict) in ways {
            let (way, policy) = (
                Way {
                    direction,
                    version: Ip::V4,
                    traffic,
                    port: 4790,
                },
                Policy { verdict },
            );
            let message = set_policy(&way, &policy);
            let Answer::Policy(found, content, 0) = shown(message.clone(), kind::NEW_POLICY) else {
                panic!("{way:?}")
            };
            assert_eq!((found, content), (way.clone(), policy));
            // Port mask, protocol, prefix, interface, priority, and all that follows the kernel's
            // own number.
            let looked_at = [34, 36, 38, 42, 44, 48, 52, 56, 152, 160, 161, 162, 163];
            for at in looked_at.into_iter().chain(172..message.len() - HEADER) {
                // An IPv4 address takes four of sixteen bytes; some bytes are padding.
                if [176..188, 193..196, 198..200, 204..216]
                    .iter()
                    .any(|range| range.contains(&at))
                {
                    continue;
                }
                let mut changed = message.clone();
                changed[HEADER + at] ^= 1;
                if let Answer::Policy(found, content, _) = shown(changed, kind::NEW_POLICY) {
                    assert!(
                        found != way || content != policy,
                        "byte {at} is not looked at"
                    );
                }
            }
        }
    }

    #[test]
    fn cut_and_garbled_datagrams_are_no_answers_of_ours() {
        let message = add_association(&association_of("192.0.2.1", "192.0.2.2"));
        (0..message.len()).for_each(|length| assert!(answers(&message[..length]).is_empty()));
        let mut short = message[..HEADER + 100].to_vec();
        short[..4].copy_from_slice(&(HEADER as u32 + 100).to_ne_bytes());
        assert!(matches!(answers(&short)[..], [(_, Answer::Foreign)]));
    }
}
