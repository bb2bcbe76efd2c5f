//! Raft on disk and over mutual TLS.

mod commit;
mod consensus;
mod feed;
mod log;
mod machine;
mod network;
mod payload;

pub use commit::size;
pub use consensus::{Consensus, Retry, Seat, confirmed, now};
#[cfg(test)]
pub use log::Log;
pub use machine::{Machine, StateDigest};
pub use payload::Payload;

openraft::declare_raft_types!(
    /// The types that Raft is used with.
    pub Types:
        D = Payload,
        R = Vec<model::Response>,
        NodeId = u64,
        Node = openraft::BasicNode,
        SnapshotData = std::io::Cursor<Vec<u8>>,
);

type LogId = openraft::LogId<u64>;
type StorageError = openraft::StorageError<u64>;
