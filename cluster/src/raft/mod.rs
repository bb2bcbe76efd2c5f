//! Raft on disk and over mutual TLS.

mod commit;
mod consensus;
mod digests;
mod feed;
mod log;
mod machine;
mod mark;
mod network;
mod payload;
mod plausible;
#[cfg(test)]
mod simulation;
mod standing;
mod transfer;

pub(crate) use commit::size;
pub(crate) use consensus::{Consensus, Retry, SessionPeer, confirmed, now};
pub use digests::StateDigest;
pub(crate) use digests::{Comparison, compare};
#[cfg(test)]
pub(crate) use log::Log;
pub(crate) use log::SEGMENT_BYTES;
pub(crate) use machine::Machine;
pub(crate) use mark::Mark;
pub(crate) use payload::Payload;
pub(crate) use plausible::Implausible;
pub(crate) use standing::{Seat, Standing};

openraft::declare_raft_types!(
    /// The types that Raft is used with.
    pub(crate) Types:
        D = Payload,
        R = Vec<model::Response>,
        NodeId = u64,
        Node = openraft::BasicNode,
        SnapshotData = std::io::Cursor<Vec<u8>>,
);

type LogId = openraft::LogId<u64>;
type StorageError = openraft::StorageError<u64>;
