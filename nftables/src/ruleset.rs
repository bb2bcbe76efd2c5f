//! What one nftables table holds, as a value.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    net::IpAddr,
    ops::Deref,
    sync::Arc,
};

use super::{Rule, code::coded};

/// A table's family; the numbers are the kernel's (`NFPROTO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// ARP.
    Arp = 3,
    /// What arrives at single devices, before anything else sees it.
    Netdev = 5,
    /// IPv6.
    Ip6 = 10,
}

coded! {
    /// A version of the Internet Protocol; the numbers are `NFPROTO_IPV4` and `NFPROTO_IPV6`.
    Ip {
        /// IPv4.
        V4 = 2,
        /// IPv6.
        V6 = 10,
    }
}

impl Ip {
    /// Both, in order.
    pub const BOTH: [Ip; 2] = [Ip::V4, Ip::V6];

    /// The version of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// What kind of base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of a connection and translates addresses.
    Nat,
    /// Reroutes packets of this host.
    Route,
}

coded! {
    /// Where in a packet's way a base chain stands.
    Hook {
        /// Arrived, not yet routed; in a table of devices: arrived at the chain's device.
        Prerouting = 0,
        /// To this host.
        Input = 1,
        /// Through this host.
        Forward = 2,
        /// From this host.
        Output = 3,
        /// About to leave.
        Postrouting = 4,
    }
}

coded! {
    /// What becomes of a packet that no rule of a base chain decided on.
    Policy {
        /// It is dropped.
        Drop = 0,
        /// It goes on.
        Accept = 1,
    }
}

coded! {
    /// What a set's key or a map's data is; the numbers are those that the `nft` program prints
    /// values by.
    Type {
        /// A 32-bit number in the host's byte order.
        Number = 4,
        /// An IPv4 address.
        Ipv4 = 7,
        /// An IPv6 address.
        Ipv6 = 8,
        /// An Ethernet address.
        Ethernet = 9,
        /// An IP protocol number.
        Protocol = 12,
        /// A port.
        Port = 13,
        /// A packet mark.
        Mark = 19,
        /// An interface name, filled with zeros to 16 bytes.
        Link = 41,
    }
}

impl Type {
    /// Bytes that a value takes.
    pub fn size(self) -> usize {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Number | Self::Ipv4 | Self::Mark => 4,
            Self::Ethernet => 6,
            Self::Ipv6 | Self::Link => 16,
        }
    }
}

impl From<Ip> for Type {
    fn from(version: Ip) -> Self {
        match version {
            Ip::V4 => Self::Ipv4,
            Ip::V6 => Self::Ipv6,
        }
    }
}

/// How long a table stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// Until somebody deletes it.
    #[default]
    Kernel,
    /// Until the socket that made it is closed; nobody else can change it
    /// (`NFT_TABLE_F_OWNER` of linux/netfilter/nf_tables.h, Linux 5.12).
    Socket,
}

/// One table: everything that [`super::apply`] writes and [`super::observe`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Its family.
    pub family: Family,
    /// Its name, unique in its family.
    pub name: String,
    /// Switched off by a flag. Never so in what we want.
    pub dormant: bool,
    /// How long it stays.
    pub lifetime: Lifetime,
    /// Its chains by name. Most are the same in one rule set and the next.
    pub chains: BTreeMap<String, Arc<Chain>>,
    /// Its named sets and maps.
    pub sets: BTreeMap<String, Set>,
    /// Its other objects by name.
    pub objects: BTreeMap<String, Object>,
}

impl Ruleset {
    /// A table with nothing in it.
    pub fn new(family: Family, name: &str) -> Self {
        Self {
            family,
            name: name.to_owned(),
            dormant: false,
            lifetime: Lifetime::Kernel,
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
            objects: BTreeMap::new(),
        }
    }

    /// The same for as long as the socket that makes it is open.
    pub fn of_socket(mut self) -> Self {
        self.lifetime = Lifetime::Socket;
        self
    }

    /// Adds or replaces a chain.
    pub fn chain(mut self, name: &str, chain: Chain) -> Self {
        self.chains.insert(name.to_owned(), Arc::new(chain));
        self
    }

    /// Adds the chains and elements that another has more.
    pub fn join(&mut self, other: Self) {
        for (name, chain) in other.chains {
            self.chains.entry(name).or_insert(chain);
        }
        for (name, set) in other.sets {
            match self.sets.entry(name) {
                Entry::Occupied(mut known) => known.get_mut().elements.extend(set.elements),
                Entry::Vacant(none) => drop(none.insert(set)),
            }
        }
        for (name, object) in other.objects {
            self.objects.entry(name).or_insert(object);
        }
    }

    /// Adds or replaces an object.
    pub fn object(mut self, name: &str, object: Object) -> Self {
        self.objects.insert(name.to_owned(), object);
        self
    }

    /// Adds or replaces a set or map.
    pub fn set(mut self, name: &str, set: Set) -> Self {
        self.sets.insert(name.to_owned(), set);
        self
    }
}

/// What rules refer to by name, beside sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// How long the table of connections remembers a silent flow of UDP.
    UdpTimeouts {
        /// Seconds, while it is unanswered and in the first two seconds of its life.
        unreplied: u32,
        /// Seconds, after that.
        replied: u32,
    },
    /// Something that is not written here, so it is not ours: its type (`NFT_OBJECT_*`).
    Foreign(u32),
}

/// Rules in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it; `None`: only by jumps.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that packets enter by jumps.
    pub fn regular(rules: Vec<Rule>) -> Self {
        Self { base: None, rules }
    }

    /// A chain that packets enter at a hook and leave accepted.
    pub fn base(kind: Kind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Self {
        Self {
            base: Some(Base {
                kind,
                hook,
                priority,
                policy: Policy::Accept,
                device: None,
            }),
            rules,
        }
    }

    /// A chain that frames enter as they arrive at a device (family [`Family::Netdev`],
    /// `NF_NETDEV_INGRESS`: the number of `Prerouting` elsewhere) and leave accepted.
    pub fn of_device(device: &str, rules: Vec<Rule>) -> Self {
        let mut chain = Self::base(Kind::Filter, Hook::Prerouting, 0, rules);
        chain
            .base
            .iter_mut()
            .for_each(|base| base.device = Some(device.to_owned()));
        chain
    }
}

/// Where a chain is hooked in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// What kind.
    pub kind: Kind,
    /// Where.
    pub hook: Hook,
    /// Order among the chains of a hook; lower comes first.
    pub priority: i32,
    /// What becomes of packets that reach the end.
    pub policy: Policy,
    /// The device, in a table of devices.
    pub device: Option<String>,
}

/// A set or map: what it holds, and its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What it holds. Cannot be changed in place.
    pub of: SetType,
    /// Its elements; a plain set has `Data::None` everywhere.
    pub elements: BTreeMap<Key, Data>,
}

impl Set {
    /// A set of single values.
    pub fn values(key: &[Type], elements: impl IntoIterator<Item = Key>) -> Self {
        let elements = elements.into_iter().map(|key| (key, Data::None)).collect();
        Self {
            of: SetType::new(key, DataType::None),
            elements,
        }
    }

    /// A set of ranges, which must not overlap.
    pub fn ranges(key: &[Type], elements: impl IntoIterator<Item = Key>) -> Self {
        let mut set = Self::values(key, elements);
        set.of.interval = true;
        set
    }

    /// A map from single values to values.
    pub fn map(
        key: &[Type],
        data: Type,
        elements: impl IntoIterator<Item = (Key, Vec<u8>)>,
    ) -> Self {
        let elements = elements
            .into_iter()
            .map(|(key, value)| (key, Data::Value(value)))
            .collect();
        Self {
            of: SetType::new(key, DataType::Value(data)),
            elements,
        }
    }

    /// A map that rules fill.
    pub fn memory(key: &[Type], data: Type) -> Self {
        let mut map = Self::map(key, data, []);
        map.of.dynamic = true;
        map
    }

    /// The same, each of its elements counting how often it was found.
    pub fn counted(mut self) -> Self {
        self.of.counted = true;
        self
    }

    /// A map from single values to verdicts.
    pub fn verdicts(key: &[Type], elements: impl IntoIterator<Item = (Key, Verdict)>) -> Self {
        let elements = elements
            .into_iter()
            .map(|(key, verdict)| (key, Data::Verdict(verdict)))
            .collect();
        Self {
            of: SetType::new(key, DataType::Verdict),
            elements,
        }
    }
}

/// What a set or map holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetType {
    /// What its keys are made of; more than one: concatenated.
    pub key: Vec<Type>,
    /// What a key leads to.
    pub data: DataType,
    /// Its keys are ranges.
    pub interval: bool,
    /// Rules fill it ([`super::Expression::Remember`]): its elements are the kernel's own and end
    /// by themselves.
    pub dynamic: bool,
    /// Each of its elements counts how often it was found.
    pub counted: bool,
    /// It has a type or flags that are not written here, so it is not ours.
    pub foreign: bool,
}

impl SetType {
    fn new(key: &[Type], data: DataType) -> Self {
        Self {
            key: key.to_vec(),
            data,
            interval: false,
            dynamic: false,
            counted: false,
            foreign: false,
        }
    }
}

/// What a map's keys lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// Nothing: it is a set.
    None,
    /// Values.
    Value(Type),
    /// Verdicts.
    Verdict,
}

/// No key is longer, in bytes (`NFT_DATA_VALUE_MAXLEN` of linux/netfilter/nf_tables.h).
const LONGEST_KEY: usize = 64;

/// The bytes of a key. Sets have thousands of them, so they take no memory of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Octets {
    length: u8,
    /// Filled with zeros.
    bytes: [u8; LONGEST_KEY],
}

impl Octets {
    const NONE: Self = Self {
        length: 0,
        bytes: [0; LONGEST_KEY],
    };

    /// Adds bytes as far as there is room, filled with zeros to a multiple of so many.
    fn add(&mut self, part: &[u8], multiple: usize) {
        let start = usize::from(self.length);
        let room = self.bytes.iter_mut().skip(start);
        room.zip(part).for_each(|(byte, own)| *byte = *own);
        let end = start + part.len().next_multiple_of(multiple);
        self.length = end.min(LONGEST_KEY) as u8;
    }
}

impl From<&[u8]> for Octets {
    fn from(bytes: &[u8]) -> Self {
        let mut octets = Self::NONE;
        octets.add(bytes, 1);
        octets
    }
}

impl From<IpAddr> for Octets {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::from(&v4.octets()[..]),
            IpAddr::V6(v6) => Self::from(&v6.octets()[..]),
        }
    }
}

impl Deref for Octets {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(out)
    }
}

/// A range of values, both ends inside. The same value twice in sets that have no ranges.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The first.
    pub first: Octets,
    /// The last.
    pub last: Octets,
}

impl Key {
    /// One value. Parts of a concatenation are each filled with zeros to a multiple of four bytes.
    pub fn of(parts: &[&[u8]]) -> Self {
        let multiple = if parts.len() > 1 { 4 } else { 1 };
        let mut value = Octets::NONE;
        parts.iter().for_each(|part| value.add(part, multiple));
        Self::single(value)
    }

    /// One value.
    pub fn single(value: Octets) -> Self {
        Self {
            first: value,
            last: value,
        }
    }

    /// One address.
    pub fn address(address: IpAddr) -> Self {
        Self::single(address.into())
    }

    /// Two addresses, concatenated.
    pub fn pair(first: IpAddr, second: IpAddr) -> Self {
        Self::of(&[&Octets::from(first), &Octets::from(second)])
    }

    /// An interface's name, as a part of a key. The kernel's have 15 bytes at most: what is longer
    /// is cut.
    pub fn link(name: &str) -> [u8; 16] {
        const LONGEST: usize = 15;
        let mut bytes = [0; 16];
        let own = name.bytes().take(LONGEST);
        bytes
            .iter_mut()
            .zip(own)
            .for_each(|(byte, own)| *byte = own);
        bytes
    }

    /// Every address from the first to the last.
    pub fn range(first: IpAddr, last: IpAddr) -> Self {
        Self {
            first: first.into(),
            last: last.into(),
        }
    }
}

/// An address as the kernel keeps it.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The address that these bytes are; `None` unless they are 4 or 16.
pub fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

/// What an element leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    None,
    /// A value.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This base chain is done with it.
    Accept,
    /// It is gone.
    Drop,
    /// On with the next rule.
    Continue,
    /// On in this chain, and back.
    Jump(String),
    /// On in this chain.
    Goto(String),
    /// Back to where the jump came from.
    Return,
}
