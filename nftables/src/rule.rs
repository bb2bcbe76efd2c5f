//! Rules, and builders for their common parts. All use the first registers.

use std::iter;

use super::{
    Comparison, Conntrack, Expression, Header, Ip, Meta, Nat, Reject, Set, SetRef, Type, Verdict,
};

const LINK_NAME_LEN: usize = 16;

/// Expressions in order; the first that does not hold ends the rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule(pub Vec<Expression>);

impl Rule {
    /// A rule without conditions.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more expression.
    pub fn with(mut self, expression: Expression) -> Self {
        self.0.push(expression);
        self
    }

    /// Only packets of this IP version.
    pub fn version(self, version: Ip) -> Self {
        self.with(Expression::Meta {
            key: Meta::Nfproto,
            into: 0,
        })
        .compare(Comparison::Equal, &[version.code() as u8])
    }

    /// Only frames that carry this (`ETH_P_*`): where frames are looked at, versions are not known.
    pub fn carries(self, protocol: u16) -> Self {
        self.with(Expression::Meta {
            key: Meta::Protocol,
            into: 0,
        })
        .compare(Comparison::Equal, &protocol.to_be_bytes())
    }

    /// Only packets of this transport protocol.
    pub fn protocol(self, protocol: u8) -> Self {
        self.with(Expression::Meta {
            key: Meta::L4proto,
            into: 0,
        })
        .compare(Comparison::Equal, &[protocol])
    }

    /// Only packets that came in by this device; a `*` at the end stands for anything.
    pub fn link_in(self, name: &str) -> Self {
        self.with(Expression::Meta {
            key: Meta::IifName,
            into: 0,
        })
        .compare(Comparison::Equal, &link(name))
    }

    /// Only packets that leave by this device; a `*` at the end stands for anything.
    pub fn link_out(self, name: &str) -> Self {
        self.with(Expression::Meta {
            key: Meta::OifName,
            into: 0,
        })
        .compare(Comparison::Equal, &link(name))
    }

    /// Only packets that leave by another device than this; a `*` at the end stands for anything.
    pub fn link_out_not(self, name: &str) -> Self {
        self.with(Expression::Meta {
            key: Meta::OifName,
            into: 0,
        })
        .compare(Comparison::NotEqual, &link(name))
    }

    /// Only packets that came in by another device than this; a `*` at the end stands for anything.
    pub fn link_in_not(self, name: &str) -> Self {
        self.with(Expression::Meta {
            key: Meta::IifName,
            into: 0,
        })
        .compare(Comparison::NotEqual, &link(name))
    }

    /// Only packets that answer.
    pub fn answers(self) -> Self {
        self.direction(1)
    }

    /// Only packets of whoever began the connection.
    pub fn calls(self) -> Self {
        self.direction(0)
    }

    /// `enum ip_conntrack_dir`.
    fn direction(self, direction: u8) -> Self {
        self.with(Expression::Conntrack {
            key: Conntrack::Direction,
            into: 0,
        })
        .compare(Comparison::Equal, &[direction])
    }

    /// Loads the transport protocol into the register, and the port that the connection called into
    /// the next one.
    pub fn called(self, into: u8) -> Self {
        self.with(Expression::Conntrack {
            key: Conntrack::Protocol,
            into,
        })
        .with(Expression::Conntrack {
            key: Conntrack::CalledPort,
            into: into + 1,
        })
    }

    /// Loads a constant into the first register.
    pub fn constant(self, value: &[u8]) -> Self {
        self.with(Expression::Immediate {
            into: 0,
            value: value.to_vec(),
        })
    }

    /// Only packets in one of these connection states (`NF_CT_STATE_BIT`s: 2 established, 4
    /// related, 8 new).
    pub fn states(self, bits: u32) -> Self {
        let mask = bits.to_ne_bytes().to_vec();
        self.with(Expression::Conntrack {
            key: Conntrack::State,
            into: 0,
        })
        .with(Expression::Bitwise {
            from: 0,
            into: 0,
            mask,
            xor: vec![0; 4],
        })
        .compare(Comparison::NotEqual, &[0; 4])
    }

    /// Only packets of connections with one of these marks of status (`IPS_*`).
    pub fn status(self, bits: u32) -> Self {
        let mask = bits.to_ne_bytes().to_vec();
        self.with(Expression::Conntrack {
            key: Conntrack::Status,
            into: 0,
        })
        .with(Expression::Bitwise {
            from: 0,
            into: 0,
            mask,
            xor: vec![0; 4],
        })
        .compare(Comparison::NotEqual, &[0; 4])
    }

    /// Loads the name of the device that the packet came in by into four registers.
    pub fn load_link_in(self, into: u8) -> Self {
        self.with(Expression::Meta {
            key: Meta::IifName,
            into,
        })
    }

    /// Loads the source address of the Ethernet header into two registers.
    pub fn source_mac(self, into: u8) -> Self {
        self.with(Expression::Payload {
            base: Header::Link,
            offset: 6,
            len: 6,
            into,
        })
    }

    /// Loads bytes of the transport header into the register.
    pub fn transport(self, offset: u32, len: u32, into: u8) -> Self {
        self.with(Expression::Payload {
            base: Header::Transport,
            offset,
            len,
            into,
        })
    }

    /// Loads the source address into the register.
    pub fn source(self, version: Ip, into: u8) -> Self {
        let offset = if version == Ip::V4 { 12 } else { 8 };
        self.with(Expression::Payload {
            base: Header::Network,
            offset,
            len: Type::from(version).size() as u32,
            into,
        })
    }

    /// Loads the destination address into the register.
    pub fn destination(self, version: Ip, into: u8) -> Self {
        let offset = if version == Ip::V4 { 16 } else { 24 };
        self.with(Expression::Payload {
            base: Header::Network,
            offset,
            len: Type::from(version).size() as u32,
            into,
        })
    }

    /// Only if the first register compares so.
    pub fn compare(self, how: Comparison, value: &[u8]) -> Self {
        self.with(Expression::Compare {
            from: 0,
            how,
            value: value.to_vec(),
        })
    }

    /// Only if the named set has the first register.
    pub fn in_set(self, name: &str) -> Self {
        self.with(Expression::Match {
            set: SetRef::Named(name.to_owned()),
            from: 0,
            invert: false,
        })
    }

    /// Only if the named set does not have the first register.
    pub fn not_in_set(self, name: &str) -> Self {
        self.with(Expression::Match {
            set: SetRef::Named(name.to_owned()),
            from: 0,
            invert: true,
        })
    }

    /// Does what the named verdict map says of the first register.
    pub fn verdict_map(self, name: &str) -> Self {
        self.with(Expression::VerdictMap {
            set: SetRef::Named(name.to_owned()),
            from: 0,
        })
    }

    /// Replaces the first register by what the named map leads to; ends the rule where it leads
    /// nowhere.
    pub fn map(self, name: &str) -> Self {
        self.with(Expression::Map {
            set: SetRef::Named(name.to_owned()),
            from: 0,
            into: 0,
        })
    }

    /// Replaces the first register by what this map of the rule's own leads to.
    pub fn own_map(self, map: Set) -> Self {
        self.with(Expression::Map {
            set: SetRef::Anonymous(map),
            from: 0,
            into: 0,
        })
    }

    /// Counts.
    pub fn counter(self) -> Self {
        self.with(Expression::Counter)
    }

    /// Decides.
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.with(Expression::Verdict(verdict))
    }

    /// Translates to the address in the first register.
    pub fn nat(self, kind: Nat, version: Ip) -> Self {
        self.with(Expression::Nat {
            kind,
            version,
            address: 0,
            ports: None,
        })
    }

    /// Writes a port of TCP or UDP, the one at this offset of its header; the checksum is at the
    /// other.
    pub fn set_port(self, port: u16, offset: u32, checksum: u32) -> Self {
        let value = Expression::Immediate {
            into: 0,
            value: port.to_be_bytes().to_vec(),
        };
        self.with(value).with(Expression::SetPayload {
            base: Header::Transport,
            offset,
            len: 2,
            from: 0,
            checksum: Some(checksum),
        })
    }

    /// Refuses.
    pub fn reject(self, how: Reject) -> Self {
        self.with(Expression::Reject(how))
    }
}

fn link(name: &str) -> Vec<u8> {
    match name.strip_suffix('*') {
        Some(prefix) => prefix.as_bytes().to_vec(),
        None => name
            .bytes()
            .chain(iter::repeat(0))
            .take(LINK_NAME_LEN)
            .collect(),
    }
}
