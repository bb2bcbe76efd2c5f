//! Netlink messages and their attributes as bytes; also for another protocol that is spoken over a
//! [`Socket`](crate::Socket).

use std::collections::BTreeMap;

use netlink_packet_core::NlasIterator;

use super::Family;

const SUBSYSTEM: u16 = 10;
/// `NLA_F_NESTED`.
pub(crate) const NESTED: u16 = 1 << 15;
const ATTRIBUTE_HEADER: usize = 4;
/// `nlmsghdr`.
pub const NETLINK_HEADER: usize = 16;
/// `nlmsghdr` and `nfgenmsg`.
const MESSAGE_HEADER: usize = 20;

/// Start and end of a batch (`NFNL_MSG_BATCH_*`).
pub(crate) const BATCH_BEGIN: u16 = 0x10;
pub(crate) const BATCH_END: u16 = 0x11;

/// The type of nftables message number `message` (`enum nf_tables_msg_types`).
pub(crate) const fn nftables(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// One message being written.
pub struct Message(Vec<u8>);

impl Message {
    /// One of nftables or connection tracking.
    pub fn new(kind: u16, flags: u16, sequence: u32, family: Option<Family>) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([family.map_or(0, |family| family as u8), 0]);
        // Only the marks of a batch name the subsystem here (`nfgenmsg.res_id`); elsewhere it is
        // not read.
        bytes.extend(SUBSYSTEM.to_be_bytes());
        Self(bytes)
    }

    /// One of another protocol, whose header this is.
    pub fn headed(kind: u16, flags: u16, sequence: u32, header: &[u8]) -> Self {
        let mut message = Self::new(kind, flags, sequence, None);
        message.0.truncate(NETLINK_HEADER);
        message.0.extend(header);
        message
    }

    /// Sets flags beside those that it was made with.
    pub fn add_flags(&mut self, flags: u16) {
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flags;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// The whole message, with its length in its header.
    pub fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }

    /// Appends an attribute.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Appends a number in network byte order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Appends a string, which a zero byte ends.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// Appends an attribute that holds those that `fill` appends.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.bytes(kind | NESTED, &[]);
        fill(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The attributes of a message or of a nested attribute, by kind; the last of a kind counts.
pub struct Attributes<'a>(BTreeMap<u16, &'a [u8]>);

impl<'a> Attributes<'a> {
    /// Those of a whole message.
    pub fn of_message(message: &'a [u8]) -> Self {
        Self::parse(message.get(MESSAGE_HEADER..).unwrap_or_default())
    }

    /// Those of an attribute's payload; what is malformed ends them.
    pub fn parse(bytes: &'a [u8]) -> Self {
        Self(list(bytes).collect())
    }

    /// An attribute's payload.
    pub fn bytes(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.get(&kind).copied()
    }

    /// A number in network byte order.
    pub fn u32(&self, kind: u16) -> Option<u32> {
        self.bytes(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A string, with or without its final zero byte.
    pub fn text(&self, kind: u16) -> Option<String> {
        let bytes = self.bytes(kind)?;
        String::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes).to_vec()).ok()
    }

    /// The attributes inside one.
    pub fn nested(&self, kind: u16) -> Option<Self> {
        self.bytes(kind).map(Self::parse)
    }

    /// The members of a list attribute, in order.
    pub fn members(&self, kind: u16) -> impl Iterator<Item = Attributes<'a>> {
        list(self.bytes(kind).unwrap_or_default()).map(|(_, value)| Self::parse(value))
    }
}

fn list(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).flatten().map(|attribute| {
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        (
            kind,
            attribute
                .into_inner()
                .get(ATTRIBUTE_HEADER..length)
                .unwrap_or_default(),
        )
    })
}
