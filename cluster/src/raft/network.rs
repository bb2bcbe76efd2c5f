//! Raft's requests to other managers.
// The error type is openraft's.
#![allow(clippy::result_large_err)]

use std::{net::SocketAddr, time::Duration};

use api::{
    MESSAGE_LIMIT, decode, encode,
    proto::{Json, raft_client::RaftClient},
};
use model::NodeId;
use openraft::{
    AnyError, BasicNode, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::de::DeserializeOwned;
use tonic::{Code, Request, Response, Status, transport::Channel};

use super::Types;
use crate::link::{Links, Target};

/// Pause before a manager that cannot be reached is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Makes the ways to other managers.
pub struct Network(pub Links);

/// The way to one other manager.
pub struct Peer {
    node: u64,
    address: Option<SocketAddr>,
    links: Links,
}

type Failure<E> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, node: u64, place: &BasicNode) -> Peer {
        Peer {
            node,
            address: place.addr.parse().ok(),
            links: self.0.clone(),
        }
    }
}

impl Peer {
    fn client<E: std::error::Error>(&self) -> Result<RaftClient<Channel>, Failure<E>> {
        let missing = || {
            RPCError::Unreachable(Unreachable::from(AnyError::error(
                "its address is no address",
            )))
        };
        let address = self.address.ok_or_else(missing)?;
        let channel = self.links.channel(Target {
            address,
            node: Some(NodeId(self.node)),
        });
        Ok(RaftClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT))
    }

    fn read<T: DeserializeOwned, E: std::error::Error + DeserializeOwned>(
        &self,
        answer: Result<Response<Json>, Status>,
    ) -> Result<T, Failure<E>> {
        let answer = answer.map_err(|status| match status.code() {
            Code::Unavailable | Code::PermissionDenied | Code::Unimplemented => {
                RPCError::Unreachable(Unreachable::new(&status))
            }
            _ => RPCError::Network(NetworkError::new(&status)),
        })?;
        let answer: Result<T, RaftError<u64, E>> = decode(answer.get_ref())
            .map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.node, error)))
    }
}

fn request(payload: Json, option: &RPCOption) -> Request<Json> {
    let mut request = Request::new(payload);
    request.set_timeout(option.hard_ttl());
    request
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        call: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<openraft::error::Infallible>> {
        let answer = self.client()?.append(request(encode(&call), &option)).await;
        self.read(answer)
    }

    async fn install_snapshot(
        &mut self,
        call: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        let answer = self
            .client()?
            .install_snapshot(request(encode(&call), &option))
            .await;
        self.read(answer)
    }

    async fn vote(
        &mut self,
        call: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<openraft::error::Infallible>> {
        let answer = self.client()?.vote(request(encode(&call), &option)).await;
        self.read(answer)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_PAUSE))
    }
}
