//! nftables by netlink, declaratively: a [`Ruleset`] describes one table, [`observe`] reads it
//! back, [`difference()`] (pure) finds the smallest change between two, [`apply`] makes it in one
//! atomic batch.

#![warn(unreachable_pub)]

mod attribute;
mod code;
mod conntrack;
mod decode;
mod difference;
mod encode;
mod expression;
mod kernel;
mod passage;
mod rule;
mod ruleset;
pub mod wire;

pub use conntrack::{Connection, count, forget, load};
pub use difference::{Change, Step, difference};
pub use expression::{
    Comparison, Conntrack, Expression, FibResult, Header, Meta, Nat, Numbers, Reject, SetRef,
};
pub use kernel::{
    Failure, Monitor, NftError, Socket, apply, counted, foreign_forward_chains, generation,
    knows_timeouts, observe,
};
pub use passage::{COMMENT, ForeignChain, Overtake, Placed, passage};
pub use rule::Rule;
pub use ruleset::{
    Base, Chain, Data, DataType, Family, Hook, Ip, Key, Kind, Lifetime, Object, Octets, Policy,
    Ruleset, Set, SetType, Type, Verdict, address, octets,
};
