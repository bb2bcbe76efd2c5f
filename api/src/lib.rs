//! The wire contract: generated gRPC services of `proto/netd.proto`, their JSON payloads, and the
//! client of the local socket.

#![warn(unreachable_pub)]

pub mod lists;
mod local;
mod payload;

pub use local::{LocalError, SOCKET, connect};
pub use payload::{
    Attached, CniInterface, CniName, ContainerReply, ContainerRequest, DATA_PATH_PORT, Debug,
    Difference, Encryption, Examine, Examined, InitRequest, JoinRequest, LeaveRequest, Look,
    Passed, PayloadError, Peer, Proposal, Standing, Subject, Verification, VipTraffic, decode,
    encode,
};

/// The largest message in bytes, of those that carry lists and views. Snapshots of managers travel
/// in pieces below it.
pub const MESSAGE_LIMIT: usize = 64 << 20;

/// The generated messages, clients and servers.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    tonic::include_proto!("netd.v1");
}
