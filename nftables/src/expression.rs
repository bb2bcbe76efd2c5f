//! The expressions that a rule is made of.

use super::{Ip, Set, Verdict, code::coded};

coded! {
    /// What is known of a packet beside its bytes.
    Meta {
        /// What the frame carries: two bytes (`ETH_P_*`).
        Protocol = 1,
        /// Packet mark, in the host's byte order.
        Mark = 3,
        /// Index of the device that it came in by.
        Iif = 4,
        /// Index of the device that it leaves by.
        Oif = 5,
        /// Name of the device that it came in by.
        IifName = 6,
        /// Name of the device that it leaves by.
        OifName = 7,
        /// User that owns the socket that it came from, in the host's byte order; without one there
        /// is none.
        Owner = 10,
        /// IP version: one byte.
        Nfproto = 15,
        /// Transport protocol: one byte.
        L4proto = 16,
        /// Whether it was protected by IPsec on its way here: one byte, 0 or 1.
        Secpath = 25,
    }
}

coded! {
    /// What is known of a packet's connection; all in the host's byte order.
    Conntrack {
        /// State bits.
        State = 0,
        /// Direction: one byte, 0 original, 1 reply.
        Direction = 1,
        /// Status bits.
        Status = 2,
        /// Connection mark.
        Mark = 3,
        /// Transport protocol: one byte.
        Protocol = 10,
        /// The port that was called: two bytes, in the order of the packet.
        CalledPort = 12,
    }
}

coded! {
    /// Where offsets in a packet count from.
    Header {
        /// Start of the Ethernet header.
        Link = 0,
        /// Start of the IP header.
        Network = 1,
        /// Start of the transport header.
        Transport = 2,
    }
}

coded! {
    /// How two values are compared.
    Comparison {
        /// Equal.
        Equal = 0,
        /// Not equal.
        NotEqual = 1,
        /// Less.
        Less = 2,
        /// Less or equal.
        LessOrEqual = 3,
        /// Greater.
        Greater = 4,
        /// Greater or equal.
        GreaterOrEqual = 5,
    }
}

coded! {
    /// Which address is translated.
    Nat {
        /// The source.
        Source = 0,
        /// The destination.
        Destination = 1,
    }
}

coded! {
    /// How numbers are generated.
    Numbers {
        /// Each is one more than the last.
        Incremental = 0,
        /// At random.
        Random = 1,
    }
}

coded! {
    /// What a look-up in the routing tables gives.
    FibResult {
        /// Index of the output device.
        Oif = 1,
        /// Name of the output device.
        OifName = 2,
        /// Type of the address.
        AddressType = 3,
    }
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// ICMP or ICMPv6 unreachable with the version's own code.
    Icmp(u8),
    /// TCP reset.
    TcpReset,
    /// ICMP or ICMPv6 unreachable: 0 no route, 1 port, 2 host, 3 prohibited.
    Icmpx(u8),
}

/// The set or map that a rule looks into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetRef {
    /// One of the table's.
    Named(String),
    /// One of the rule's own.
    Anonymous(Set),
}

/// One step of a rule. Registers are numbered in units of four bytes, 0-15; longer values take
/// several.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Expression {
    /// Loads something known of the packet.
    Meta { key: Meta, into: u8 },
    /// Changes something known of the packet.
    SetMeta { key: Meta, from: u8 },
    /// Loads something known of its connection.
    Conntrack { key: Conntrack, into: u8 },
    /// Changes something known of its connection.
    SetConntrack { key: Conntrack, from: u8 },
    /// Loads bytes of the packet.
    Payload {
        base: Header,
        offset: u32,
        len: u32,
        into: u8,
    },
    /// Writes bytes of the packet, and mends the checksum (RFC 1071) at an offset from the same
    /// base where there is one.
    SetPayload {
        base: Header,
        offset: u32,
        len: u32,
        from: u8,
        checksum: Option<u32>,
    },
    /// Sends the packet out of the device whose number is in the register, and is done with it.
    Forward { device: u8 },
    /// Goes on only if the register compares so to the value.
    Compare {
        from: u8,
        how: Comparison,
        value: Vec<u8>,
    },
    /// `(from & mask) ^ xor`.
    Bitwise {
        from: u8,
        into: u8,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Goes on only if the set has the register (`invert`: has it not).
    Match { set: SetRef, from: u8, invert: bool },
    /// Loads what the map leads to; goes on only if it leads somewhere.
    Map { set: SetRef, from: u8, into: u8 },
    /// Keeps the register `data` under the register `key` in a map that rules fill for so many
    /// milliseconds from now; where there is something under that key it stays, and only its time
    /// begins anew. Ends the rule where the map is full.
    Remember {
        map: String,
        key: u8,
        data: u8,
        milliseconds: u64,
    },
    /// Forgets what is under the register `key`. The kernel wants to be told a register of data
    /// here, too.
    Forget { map: String, key: u8, data: u8 },
    /// Does what the verdict map says; goes on if it says nothing.
    VerdictMap { set: SetRef, from: u8 },
    /// Loads a constant.
    Immediate { into: u8, value: Vec<u8> },
    /// Decides.
    Verdict(Verdict),
    /// Translates an address of the connection to the one in the register, and where there are two
    /// more registers the port to one from the first to the second.
    Nat {
        kind: Nat,
        version: Ip,
        address: u8,
        ports: Option<(u8, u8)>,
    },
    /// Translates the source to an address of the device that it leaves by.
    Masquerade,
    /// Loads a number from `offset` to `offset + modulus - 1`.
    Number {
        kind: Numbers,
        modulus: u32,
        offset: u32,
        into: u8,
    },
    /// Loads Jenkins' hash of `len` bytes, from `offset` to `offset + modulus - 1`.
    Hash {
        from: u8,
        len: u32,
        modulus: u32,
        seed: u32,
        offset: u32,
        into: u8,
    },
    /// Looks an address up in the routing tables; `flags` are `NFTA_FIB_F_*`.
    Fib {
        result: FibResult,
        flags: u32,
        into: u8,
    },
    /// Loads whether the packet is about to be protected by IPsec: one byte, 0 or 1.
    RouteIpsec { into: u8 },
    /// Counts.
    Counter,
    /// Goes on only with what is more than so many packets a second, once a burst has passed.
    Over { rate: u64, burst: u32 },
    /// Gives the timeouts of this name to the connection that the packet begins.
    Timeouts(String),
    /// Leaves the packet out of connection tracking.
    Notrack,
    /// Refuses.
    Reject(Reject),
    /// Something that is not written here, so it is not ours: the expression's name.
    Unknown(String),
}
