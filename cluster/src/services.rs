//! The gRPC services of the control plane: translate between the wire and [`Member`].

use std::{net::IpAddr, pin::Pin, sync::Arc};

use api::{
    MESSAGE_LIMIT, Proposal, decode, encode,
    proto::{
        Json,
        control_server::{Control, ControlServer},
        dispatcher_server::{Dispatcher, DispatcherServer},
        membership_server::{Membership, MembershipServer},
        raft_server::{Raft, RaftServer},
    },
};
use futures::{Stream, StreamExt};
use model::{
    Answer, Kind, Level, NodeId, Query, RecordError, Refusal, Role, StateMachine, Watch, level,
};
use openraft::{
    Entry, EntryPayload,
    raft::{AppendEntriesRequest, InstallSnapshotRequest},
};
use serde_json::Value;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use crate::{
    Halt, JoinAnswer, JoinCall, Member, PeerIdentity,
    bounds::{JOIN_BYTES, shortened},
    dispatcher,
    raft::{Consensus, Implausible, Retry, Types},
    server::Caller,
    streams::{Messages, paged, told},
    watching,
};

/// The extra routes and the cluster's own.
pub(crate) fn add<S: StateMachine>(extra: Routes, member: &Member<S>) -> Routes {
    let door = Door(member.clone());
    extra
        .add_service(RaftServer::new(door.clone()).max_decoding_message_size(MESSAGE_LIMIT))
        .add_service(MembershipServer::new(door.clone()).max_decoding_message_size(JOIN_BYTES))
        .add_service(
            DispatcherServer::new(door.clone()).max_decoding_message_size(dispatcher::UPWARD_BYTES),
        )
        .add_service(ControlServer::new(door))
}

/// What hosts without a certificate may call.
pub(crate) fn for_strangers<S: StateMachine>(member: &Member<S>) -> Routes {
    let door = MembershipServer::new(Door(member.clone()));
    Routes::new(door.max_decoding_message_size(JOIN_BYTES))
}

struct Door<S>(Member<S>);

impl<S> Clone for Door<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: StateMachine> Door<S> {
    fn manager(&self) -> Result<&Arc<Consensus<S>>, Status> {
        self.0
            .consensus()
            .ok_or_else(|| Status::unavailable("this node does not vote: ask another manager"))
    }

    /// Stops this host as a member where it is sent what a later version wrote.
    fn known_to_this_version(&self, levels: impl IntoIterator<Item = Level>) -> Result<(), Status> {
        let newest = levels.into_iter().max().unwrap_or_default();
        let checked = level::check("what the leader sends", newest, self.0.known());
        checked.map_err(|error| {
            let status = Status::failed_precondition(error.to_string());
            self.0.halt(Halt::TooNew(error));
            status
        })
    }

    /// Refuses a manager's message that is not believed. It may send any number.
    fn disbelieved(&self, caller: Option<Caller>, error: &Implausible) -> Status {
        if let Some(Caller { address, .. }) = caller
            && let Some(left_out) = self.0.bounds().may_log(address)
        {
            tracing::warn!(peer = %address, %error, left_out, "a message of Raft is not believed");
        }
        Status::invalid_argument(error.to_string())
    }

    /// Lets a host in that has shown no certificate.
    async fn let_in(&self, from: IpAddr, call: &JoinCall) -> Result<JoinAnswer, Refusal> {
        if self.0.consensus().is_none() {
            return Err(no_manager(self.0.role()));
        }
        self.0.bounds().join(from, call)?;
        let answer = self.0.admit(call).await;
        // Of the refusals only that of a wrong token is of this kind.
        if !matches!(&answer, Err(refusal) if refusal.kind == Kind::Denied) {
            self.0.bounds().joined(from);
        }
        answer
    }

    fn leader(&self) -> Result<&Arc<Consensus<S>>, Status> {
        let manager = self.manager()?;
        let leads = manager.standing.leads().then_some(manager);
        leads.ok_or_else(|| Status::unavailable("this manager does not lead"))
    }
}

type Reply = Result<Response<Json>, Status>;

/// The levels of the log's entries.
fn levels_of(entries: &[Entry<Types>]) -> Vec<Level> {
    let mut levels = Vec::new();
    for entry in entries {
        if let EntryPayload::Normal(payload) = &entry.payload {
            levels.push(payload.level());
        }
    }
    levels
}

/// The levels of entries that this version cannot read, by the place where every version says them.
fn levels_in(json: &[u8]) -> Vec<Level> {
    let call: Value = serde_json::from_slice(json).unwrap_or_default();
    let entries = call["entries"].as_array().map_or(&[][..], Vec::as_slice);
    let level = |entry: &Value| entry["payload"]["Normal"]["level"].as_u64();
    let levels = entries.iter().filter_map(level);
    levels
        .map(|level| Level(u16::try_from(level).unwrap_or(u16::MAX)))
        .collect()
}

fn reply<T: serde::Serialize>(value: &T) -> Reply {
    Ok(Response::new(encode(value)))
}

fn no_manager(role: Role) -> Refusal {
    let what = match role {
        Role::Worker => "is a worker",
        Role::Manager => "is a manager that does not vote",
    };
    let next = "`swarmctl node ls` there shows the managers' addresses: join at one of them";
    Refusal::new(
        Kind::Precondition,
        format!("the node at this address {what}, and only managers that vote let hosts in"),
        next,
    )
}

fn again(Retry(reason): Retry) -> Status {
    Status::unavailable(reason)
}

fn may_ask(from: PeerIdentity, query: &Query) -> Result<(), Refusal> {
    if from.role == Role::Worker && matches!(query, Query::Token(_)) {
        let cause = "a worker may not read join tokens";
        let next = "run the command on a manager";
        return Err(Refusal::new(Kind::Denied, cause, next));
    }
    Ok(())
}

fn caller<T>(request: &Request<T>) -> Option<Caller> {
    request.extensions().get::<Caller>().copied()
}

/// The caller's identity, which the gate has stored.
fn identity<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    let identity = request.extensions().get::<PeerIdentity>().copied();
    identity.ok_or_else(|| Status::unauthenticated("a certificate of this cluster is needed"))
}

#[tonic::async_trait]
impl<S: StateMachine> Raft for Door<S> {
    async fn append(&self, request: Request<Json>) -> Reply {
        let standing = &self.manager()?.standing;
        let (from, caller) = (identity(&request)?.node, caller(&request));
        match decode::<AppendEntriesRequest<Types>>(request.get_ref()) {
            Ok(call) => {
                self.known_to_this_version(levels_of(&call.entries))?;
                let taken = standing.append(from, call).await;
                reply(&taken.map_err(|error| self.disbelieved(caller, &error))?)
            }
            // What cannot be read may be of a later version.
            Err(error) => {
                self.known_to_this_version(levels_in(&request.get_ref().json))?;
                Err(error.into())
            }
        }
    }

    async fn vote(&self, request: Request<Json>) -> Reply {
        let standing = &self.manager()?.standing;
        let (from, caller) = (identity(&request)?.node, caller(&request));
        let call = decode(request.get_ref())?;
        let taken = standing.vote(from, call).await;
        reply(&taken.map_err(|error| self.disbelieved(caller, &error))?)
    }

    async fn install_snapshot(&self, request: Request<Json>) -> Reply {
        let manager = self.manager()?;
        let (from, caller) = (identity(&request)?.node, caller(&request));
        let call: InstallSnapshotRequest<Types> = decode(request.get_ref())?;
        if call.offset == 0
            && let Err(RecordError::TooNew(error)) =
                level::open("the leader's snapshot", &call.data, self.0.known())
        {
            self.known_to_this_version([error.found])?;
        }
        let taken = manager.take_snapshot(from, call).await;
        reply(&taken.map_err(|error| self.disbelieved(caller, &error))?)
    }

    async fn digests(&self, _: Request<Json>) -> Reply {
        reply(&self.manager()?.machine.digests())
    }

    async fn vouch(&self, request: Request<Json>) -> Reply {
        let node: NodeId = decode(request.get_ref())?;
        let members = self.manager()?.standing.members();
        reply(&members.contains_key(&node))
    }
}

#[tonic::async_trait]
impl<S: StateMachine> Control for Door<S> {
    async fn propose(&self, request: Request<Json>) -> Reply {
        let from = identity(&request)?;
        let Proposal { request, command } = decode(request.get_ref())?;
        reply(
            &self
                .leader()?
                .take(from, request, command)
                .await
                .map_err(again)?,
        )
    }

    async fn query(&self, request: Request<Json>) -> Reply {
        let from = identity(&request)?;
        let query: Query = decode(request.get_ref())?;
        if let Err(refusal) = may_ask(from, &query) {
            return reply(&Err::<Answer, _>(refusal));
        }
        reply(&self.leader()?.query(&query).await.map_err(again)?)
    }

    type ListStream = Messages;

    async fn list(&self, request: Request<Json>) -> Result<Response<Messages>, Status> {
        let from = identity(&request)?;
        let query: Query = decode(request.get_ref())?;
        if let Err(refusal) = may_ask(from, &query) {
            return Ok(Response::new(paged(Err(refusal))));
        }
        let answer = self.leader()?.query(&query).await.map_err(again)?;
        Ok(Response::new(paged(answer)))
    }

    type WatchStream = Messages;

    async fn watch(&self, request: Request<Json>) -> Result<Response<Messages>, Status> {
        identity(&request)?;
        let watch: Watch = decode(request.get_ref())?;
        let leader = self.leader()?.clone();
        let opened = watching::open(leader, watch).await.map_err(again)?;
        Ok(Response::new(told(opened)))
    }
}

#[tonic::async_trait]
impl<S: StateMachine> Membership for Door<S> {
    async fn join(&self, request: Request<Json>) -> Reply {
        let call: JoinCall = decode(request.get_ref())?;
        // Only another manager that passes the call on has a certificate already.
        if request.extensions().get::<PeerIdentity>().is_some() {
            return reply(&self.leader()?.admit(&call).await.map_err(again)?);
        }
        let caller = caller(&request);
        let peer = caller.ok_or_else(|| Status::internal("a connection without an address"))?;
        let peer = peer.address;
        let answer = self.let_in(peer.ip(), &call).await;
        if let Err(refusal) = &answer
            && let Some(left_out) = self.0.bounds().may_log(peer)
        {
            let hostname = shortened(&call.hostname);
            let cause = shortened(&refusal.cause);
            tracing::warn!(%peer, hostname, cause, left_out, "a host was not let in");
        }
        reply(&answer)
    }

    async fn enlist(&self, request: Request<Json>) -> Reply {
        let from = identity(&request)?;
        let node: NodeId = decode(request.get_ref())?;
        if (from.node, from.role) != (node, Role::Manager) {
            return Err(Status::permission_denied(
                "a manager can only enlist itself",
            ));
        }
        self.leader()?.enlist(node).await.map_err(again)?;
        reply(&Ok::<(), Refusal>(()))
    }

    async fn leader(&self, _: Request<Json>) -> Reply {
        let standing = &self.manager()?.standing;
        let own = self.0.own_address();
        reply(&standing.leadership(own))
    }
}

#[tonic::async_trait]
impl<S: StateMachine> Dispatcher for Door<S> {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<Json, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<Json>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let from = identity(&request)?;
        let leader = self.leader()?.clone();
        let upward = request
            .into_inner()
            .map(|message| message.ok().and_then(|message| decode(&message).ok()));
        let upward = upward
            .take_while(|message| std::future::ready(message.is_some()))
            .filter_map(std::future::ready);
        let downward = dispatcher::open(leader, from, Box::pin(upward));
        Ok(Response::new(Box::pin(downward.map(Ok))))
    }
}
