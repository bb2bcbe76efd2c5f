//! Numbers of attributes and flags, from the kernel's `linux/netfilter/nf_tables.h`. Names are the
//! kernel's without `NFTA_`.

pub(super) mod list {
    pub const ELEM: u16 = 1;
}

pub(super) mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
}

pub(super) mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
}

pub(super) mod hook {
    pub const HOOKNUM: u16 = 1;
    pub const PRIORITY: u16 = 2;
    pub const DEV: u16 = 3;
}

pub(super) mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const HANDLE: u16 = 3;
    pub const EXPRESSIONS: u16 = 4;
    pub const USERDATA: u16 = 7;
}

pub(super) mod set {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_TYPE: u16 = 4;
    pub const KEY_LEN: u16 = 5;
    pub const DATA_TYPE: u16 = 6;
    pub const DATA_LEN: u16 = 7;
    pub const DESC: u16 = 9;
    pub const ID: u16 = 10;
    pub const EXPR: u16 = 17;

    pub const DESC_SIZE: u16 = 1;
    pub const DESC_CONCAT: u16 = 2;
    pub const FIELD_LEN: u16 = 1;

    pub const F_ANONYMOUS: u32 = 1;
    pub const F_CONSTANT: u32 = 2;
    pub const F_INTERVAL: u32 = 4;
    pub const F_MAP: u32 = 8;
    pub const F_TIMEOUT: u32 = 0x10;
    pub const F_EVAL: u32 = 0x20;
    pub const F_CONCAT: u32 = 0x80;
    /// `NFT_DATA_VERDICT`.
    pub const VERDICTS: u32 = 0xffff_ff00;
}

pub(super) mod elements {
    pub const TABLE: u16 = 1;
    pub const SET: u16 = 2;
    pub const ELEMENTS: u16 = 3;
    pub const SET_ID: u16 = 4;
}

pub(super) mod element {
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const EXPR: u16 = 7;
    pub const KEY_END: u16 = 10;

    pub const F_INTERVAL_END: u32 = 1;
    pub const F_CATCHALL: u32 = 2;
}

pub(super) mod data {
    pub const VALUE: u16 = 1;
    pub const VERDICT: u16 = 2;

    pub const VERDICT_CODE: u16 = 1;
    pub const VERDICT_CHAIN: u16 = 2;
}

pub(super) mod expr {
    pub const NAME: u16 = 1;
    pub const DATA: u16 = 2;
}

/// `NFTA_RT_*`, and of `NFT_RT_*` the one that we ask for.
pub(super) mod route {
    pub const DREG: u16 = 1;
    pub const KEY: u16 = 2;
    pub const IPSEC: u32 = 4;
}

pub(super) mod meta {
    pub const DREG: u16 = 1;
    pub const KEY: u16 = 2;
    pub const SREG: u16 = 3;
}

pub(super) mod ct {
    pub const DREG: u16 = 1;
    pub const KEY: u16 = 2;
    pub const DIRECTION: u16 = 3;
    pub const SREG: u16 = 4;
}

pub(super) mod payload {
    pub const DREG: u16 = 1;
    pub const BASE: u16 = 2;
    pub const OFFSET: u16 = 3;
    pub const LEN: u16 = 4;
    pub const SREG: u16 = 5;
    pub const CSUM_TYPE: u16 = 6;
    pub const CSUM_OFFSET: u16 = 7;
    pub const CSUM_FLAGS: u16 = 8;

    /// The Internet checksum.
    pub const CSUM_INET: u32 = 1;
}

pub(super) mod fwd {
    pub const SREG_DEV: u16 = 1;
    pub const SREG_ADDR: u16 = 2;
}

pub(super) mod cmp {
    pub const SREG: u16 = 1;
    pub const OP: u16 = 2;
    pub const DATA: u16 = 3;
}

pub(super) mod bitwise {
    pub const SREG: u16 = 1;
    pub const DREG: u16 = 2;
    pub const LEN: u16 = 3;
    pub const MASK: u16 = 4;
    pub const XOR: u16 = 5;
    pub const OP: u16 = 6;
}

pub(super) mod lookup {
    pub const SET: u16 = 1;
    pub const SREG: u16 = 2;
    pub const DREG: u16 = 3;
    pub const SET_ID: u16 = 4;
    pub const FLAGS: u16 = 5;
}

pub(super) mod counter {
    pub const PACKETS: u16 = 2;
}

pub(super) mod dynset {
    pub const SET: u16 = 1;
    pub const OP: u16 = 3;
    pub const SREG_KEY: u16 = 4;
    pub const SREG_DATA: u16 = 5;
    pub const TIMEOUT: u16 = 6;

    /// `NFT_DYNSET_OP_UPDATE`: adds an element, or starts its time anew.
    pub const UPDATE: u32 = 1;
    pub const DELETE: u32 = 2;
}

pub(super) mod immediate {
    pub const DREG: u16 = 1;
    pub const DATA: u16 = 2;
}

pub(super) mod nat {
    pub const TYPE: u16 = 1;
    pub const FAMILY: u16 = 2;
    pub const REG_ADDR_MIN: u16 = 3;
    pub const REG_ADDR_MAX: u16 = 4;
    pub const REG_PROTO_MIN: u16 = 5;
    pub const REG_PROTO_MAX: u16 = 6;
    pub const FLAGS: u16 = 7;

    /// The kernel sets these wherever there is an address, and wherever there are ports.
    pub const F_MAP_IPS: u32 = 1;
    pub const F_PROTO_SPECIFIED: u32 = 2;
}

pub(super) mod masq {
    pub const FLAGS: u16 = 1;
    pub const REG_PROTO_MIN: u16 = 2;
}

pub(super) mod numgen {
    pub const DREG: u16 = 1;
    pub const MODULUS: u16 = 2;
    pub const TYPE: u16 = 3;
    pub const OFFSET: u16 = 4;
}

pub(super) mod hash {
    pub const SREG: u16 = 1;
    pub const DREG: u16 = 2;
    pub const LEN: u16 = 3;
    pub const MODULUS: u16 = 4;
    pub const SEED: u16 = 5;
    pub const OFFSET: u16 = 6;
    pub const TYPE: u16 = 7;
}

pub(super) mod fib {
    pub const DREG: u16 = 1;
    pub const RESULT: u16 = 2;
    pub const FLAGS: u16 = 3;
}

pub(super) mod reject {
    pub const TYPE: u16 = 1;
    pub const ICMP_CODE: u16 = 2;
}
