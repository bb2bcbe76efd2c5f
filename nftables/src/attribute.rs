//! Numbers of attributes and flags, from the kernel's `linux/netfilter/nf_tables.h`. Names are the
//! kernel's without `NFTA_`.

pub(super) mod list {
    pub(crate) const ELEM: u16 = 1;
}

pub(super) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;

    pub(crate) const F_OWNER: u32 = 2;
}

pub(super) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
}

pub(super) mod hook {
    pub(crate) const HOOKNUM: u16 = 1;
    pub(crate) const PRIORITY: u16 = 2;
    pub(crate) const DEV: u16 = 3;
}

pub(super) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const HANDLE: u16 = 3;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const USERDATA: u16 = 7;
}

pub(super) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LEN: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LEN: u16 = 7;
    pub(crate) const DESC: u16 = 9;
    pub(crate) const ID: u16 = 10;
    pub(crate) const EXPR: u16 = 17;

    pub(crate) const DESC_SIZE: u16 = 1;
    pub(crate) const DESC_CONCAT: u16 = 2;
    pub(crate) const FIELD_LEN: u16 = 1;

    pub(crate) const F_ANONYMOUS: u32 = 1;
    pub(crate) const F_CONSTANT: u32 = 2;
    pub(crate) const F_INTERVAL: u32 = 4;
    pub(crate) const F_MAP: u32 = 8;
    pub(crate) const F_TIMEOUT: u32 = 0x10;
    pub(crate) const F_EVAL: u32 = 0x20;
    pub(crate) const F_CONCAT: u32 = 0x80;
    /// `NFT_DATA_VERDICT`.
    pub(crate) const VERDICTS: u32 = 0xffff_ff00;
}

pub(super) mod elements {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const SET: u16 = 2;
    pub(crate) const ELEMENTS: u16 = 3;
    pub(crate) const SET_ID: u16 = 4;
}

pub(super) mod element {
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const EXPR: u16 = 7;
    pub(crate) const KEY_END: u16 = 10;

    pub(crate) const F_INTERVAL_END: u32 = 1;
    pub(crate) const F_CATCHALL: u32 = 2;
}

pub(super) mod data {
    pub(crate) const VALUE: u16 = 1;
    pub(crate) const VERDICT: u16 = 2;

    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
}

pub(super) mod expr {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DATA: u16 = 2;
}

/// `NFTA_RT_*`, and of `NFT_RT_*` the one that we ask for.
pub(super) mod route {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const KEY: u16 = 2;
    pub(crate) const IPSEC: u32 = 4;
}

pub(super) mod meta {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const KEY: u16 = 2;
    pub(crate) const SREG: u16 = 3;
}

pub(super) mod ct {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const KEY: u16 = 2;
    pub(crate) const DIRECTION: u16 = 3;
    pub(crate) const SREG: u16 = 4;
}

pub(super) mod payload {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const BASE: u16 = 2;
    pub(crate) const OFFSET: u16 = 3;
    pub(crate) const LEN: u16 = 4;
    pub(crate) const SREG: u16 = 5;
    pub(crate) const CSUM_TYPE: u16 = 6;
    pub(crate) const CSUM_OFFSET: u16 = 7;
    pub(crate) const CSUM_FLAGS: u16 = 8;

    /// The Internet checksum.
    pub(crate) const CSUM_INET: u32 = 1;
}

pub(super) mod fwd {
    pub(crate) const SREG_DEV: u16 = 1;
    pub(crate) const SREG_ADDR: u16 = 2;
}

pub(super) mod cmp {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const OP: u16 = 2;
    pub(crate) const DATA: u16 = 3;
}

pub(super) mod bitwise {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const DREG: u16 = 2;
    pub(crate) const LEN: u16 = 3;
    pub(crate) const MASK: u16 = 4;
    pub(crate) const XOR: u16 = 5;
    pub(crate) const OP: u16 = 6;
}

pub(super) mod lookup {
    pub(crate) const SET: u16 = 1;
    pub(crate) const SREG: u16 = 2;
    pub(crate) const DREG: u16 = 3;
    pub(crate) const SET_ID: u16 = 4;
    pub(crate) const FLAGS: u16 = 5;
}

pub(super) mod counter {
    pub(crate) const PACKETS: u16 = 2;
}

pub(super) mod dynset {
    pub(crate) const SET: u16 = 1;
    pub(crate) const OP: u16 = 3;
    pub(crate) const SREG_KEY: u16 = 4;
    pub(crate) const SREG_DATA: u16 = 5;
    pub(crate) const TIMEOUT: u16 = 6;

    /// `NFT_DYNSET_OP_UPDATE`: adds an element, or starts its time anew.
    pub(crate) const UPDATE: u32 = 1;
    pub(crate) const DELETE: u32 = 2;
}

pub(super) mod immediate {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const DATA: u16 = 2;
}

pub(super) mod nat {
    pub(crate) const TYPE: u16 = 1;
    pub(crate) const FAMILY: u16 = 2;
    pub(crate) const REG_ADDR_MIN: u16 = 3;
    pub(crate) const REG_ADDR_MAX: u16 = 4;
    pub(crate) const REG_PROTO_MIN: u16 = 5;
    pub(crate) const REG_PROTO_MAX: u16 = 6;
    pub(crate) const FLAGS: u16 = 7;

    /// The kernel sets these wherever there is an address, and wherever there are ports.
    pub(crate) const F_MAP_IPS: u32 = 1;
    pub(crate) const F_PROTO_SPECIFIED: u32 = 2;
}

pub(super) mod masq {
    pub(crate) const FLAGS: u16 = 1;
    pub(crate) const REG_PROTO_MIN: u16 = 2;
}

pub(super) mod numgen {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const MODULUS: u16 = 2;
    pub(crate) const TYPE: u16 = 3;
    pub(crate) const OFFSET: u16 = 4;
}

pub(super) mod hash {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const DREG: u16 = 2;
    pub(crate) const LEN: u16 = 3;
    pub(crate) const MODULUS: u16 = 4;
    pub(crate) const SEED: u16 = 5;
    pub(crate) const OFFSET: u16 = 6;
    pub(crate) const TYPE: u16 = 7;
}

pub(super) mod fib {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const RESULT: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
}

pub(super) mod limit {
    pub(crate) const RATE: u16 = 1;
    pub(crate) const UNIT: u16 = 2;
    pub(crate) const BURST: u16 = 3;
    pub(crate) const TYPE: u16 = 4;
    pub(crate) const FLAGS: u16 = 5;

    /// `NFT_LIMIT_PKTS`.
    pub(crate) const PACKETS: u32 = 0;
    /// `NFT_LIMIT_F_INV`.
    pub(crate) const F_INVERT: u32 = 1;
}

pub(super) mod objref {
    pub(crate) const TYPE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
}

pub(super) mod object {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const TYPE: u16 = 3;
    pub(crate) const DATA: u16 = 4;

    /// `NFT_OBJECT_CT_TIMEOUT`.
    pub(crate) const TIMEOUT: u32 = 7;
}

/// `NFTA_CT_TIMEOUT_*`, and of `CTA_TIMEOUT_UDP_*` all.
pub(super) mod timeout {
    pub(crate) const L3PROTO: u16 = 1;
    pub(crate) const L4PROTO: u16 = 2;
    pub(crate) const DATA: u16 = 3;

    pub(crate) const UDP_UNREPLIED: u16 = 1;
    pub(crate) const UDP_REPLIED: u16 = 2;
}

pub(super) mod reject {
    pub(crate) const TYPE: u16 = 1;
    pub(crate) const ICMP_CODE: u16 = 2;
}
