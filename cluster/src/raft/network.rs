//! Raft's requests to other managers.
//!
//! openraft sends each follower a request of its own for each advance of the commit index, which
//! doubles the requests of a write. Here such a request waits for a moment: where the next entries
//! come meanwhile, they carry the index, else a task sends it.
// The error type is openraft's.
#![allow(clippy::result_large_err)]

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{
    MESSAGE_LIMIT, decode, encode,
    proto::{Json, raft_client::RaftClient},
};
use model::NodeId;
use openraft::{
    AnyError, BasicNode, RaftNetwork, RaftNetworkFactory, Vote,
    error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};
use tonic::{Code, Request, Response, Status, transport::Channel};

use super::{
    LogId, Types,
    log::Log,
    plausible::{self, Implausible},
};
use crate::{
    link::{Links, Target},
    timing::HEARTBEAT,
};

/// Pause before a manager that cannot be reached is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long a commit index waits for entries to go with, at most.
const HOLD: Duration = Duration::from_millis(20);

/// Makes the ways to other managers.
pub(super) struct Network {
    pub me: u64,
    pub links: Links,
    pub log: Log,
    pub acks: Acks,
}

/// The way to one other manager.
pub(super) struct Peer {
    me: u64,
    node: u64,
    address: Option<SocketAddr>,
    links: Links,
    /// This manager's own.
    log: Log,
    acks: Acks,
    acknowledged: Option<Acknowledged>,
    held: Held,
}

/// What each manager has last confirmed of what this one appends as leader, and when. Clones share
/// it.
#[derive(Clone, Default)]
pub(super) struct Acks(Arc<Mutex<BTreeMap<u64, Ack>>>);

struct Ack {
    at: Instant,
    /// As whose follower.
    vote: Vote<u64>,
    /// The last entry that it has.
    last: Option<LogId>,
}

impl Acks {
    /// A manager has the entries up to this one.
    pub(super) fn note(&self, node: u64, vote: Vote<u64>, last: Option<LogId>) {
        let at = Instant::now();
        let mut acks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = acks.get(&node).filter(|known| known.vote == vote);
        let last = known.map_or(last, |known| known.last.max(last));
        acks.insert(node, Ack { at, vote, last });
    }

    /// Whether a manager has confirmed something within this time.
    pub(super) fn within(&self, node: NodeId, age: Duration) -> bool {
        let acks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        acks.get(&node.0).is_some_and(|ack| ack.at.elapsed() < age)
    }

    /// The last entry that a manager has confirmed as a follower of this vote.
    pub(super) fn of(&self, node: u64, vote: &Vote<u64>) -> Option<LogId> {
        let acks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        acks.get(&node).filter(|ack| ack.vote == *vote)?.last
    }
}

/// What the manager has confirmed last by this way.
struct Acknowledged {
    vote: Vote<u64>,
    last: Option<LogId>,
    /// When that was asked of it.
    asked: Instant,
}

impl Acknowledged {
    /// Whether the manager has just confirmed all of this request but its commit index.
    ///
    /// To answer such a request in its stead is safe. openraft takes two things from the answer.
    /// First, that the log of the manager matches up to `prev_log_id`: it has confirmed that to
    /// this leader, in this term, and entries that a leader has had confirmed stay until a later
    /// term. That they may be gone since is so after every answer. Second, that the manager had no
    /// later vote when the request was sent: this is used for how long ago a majority has confirmed
    /// the leadership, which is then told up to [`HOLD`] too recent, of 3 s after which requests
    /// are refused. It decides nothing else: reads ask a majority by ways of their own, which have
    /// nothing confirmed yet, and followers count time from what they receive. The age is counted
    /// from a true answer, so that a manager that is gone is asked again after `HOLD`.
    ///
    /// The commit index is late at followers by as much. No client is answered from their state:
    /// reads, views and watches are the leader's. A new leader applies what its log has before it
    /// answers, and votes are counted by logs, not by commit indexes.
    fn covers(&self, call: &AppendEntriesRequest<Types>) -> bool {
        call.entries.is_empty()
            && call.vote == self.vote
            && call.prev_log_id == self.last
            && self.asked.elapsed() < HOLD
    }
}

/// A commit index that waits for entries to go with.
#[derive(Default)]
struct Held {
    waiting: Arc<Mutex<Waiting>>,
    task: Option<AbortHandle>,
}

#[derive(Default)]
struct Waiting {
    /// Since when, and the request.
    call: Option<(Instant, AppendEntriesRequest<Types>)>,
    /// Whether a task looks after it.
    is_watched: bool,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request carries the commit index.
    fn leave(&self) {
        self.lock().call = None;
    }

    fn hold(&mut self, call: AppendEntriesRequest<Types>, client: RaftClient<Channel>) {
        let mut waiting = self.lock();
        let since = waiting.call.take().map_or_else(Instant::now, |(at, _)| at);
        waiting.call = Some((since, call));
        if std::mem::replace(&mut waiting.is_watched, true) {
            return;
        }
        drop(waiting);
        let task = tokio::spawn(send_late(self.waiting.clone(), client));
        self.task = Some(task.abort_handle());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Sends what waits once it has waited for long enough. The answer is left alone: a manager that
/// refuses says so again to the next request. A request that is late, even behind later ones, is as
/// good as one that the network has delayed, which Raft allows for.
async fn send_late(waiting: Arc<Mutex<Waiting>>, mut client: RaftClient<Channel>) {
    let mut due = Instant::now() + HOLD;
    loop {
        sleep_until(due).await;
        let call = {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            match waiting.call.take_if(|(since, _)| since.elapsed() >= HOLD) {
                Some((_, call)) => call,
                None => {
                    let Some((since, _)) = &waiting.call else {
                        waiting.is_watched = false;
                        return;
                    };
                    due = *since + HOLD;
                    continue;
                }
            }
        };
        let option = RPCOption::new(HEARTBEAT);
        if let Err(status) = client.append(request(encode(&call), &option)).await {
            tracing::debug!(reason = status.message(), "a commit index was not taken");
        }
        due = Instant::now();
    }
}

type Failure<E> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, node: u64, place: &BasicNode) -> Peer {
        Peer {
            me: self.me,
            node,
            address: place.addr.parse().ok(),
            links: self.links.clone(),
            log: self.log.clone(),
            acks: self.acks.clone(),
            acknowledged: None,
            held: Held::default(),
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

/// A leader that cannot write is silent, and others elect another one.
fn own_disk<E: std::error::Error>(error: io::Error) -> Failure<E> {
    RPCError::Unreachable(Unreachable::new(&error))
}

/// An answer that no honest manager gives is none.
fn believed<E: std::error::Error>(answer: Result<(), Implausible>) -> Result<(), Failure<E>> {
    answer.map_err(|error| {
        tracing::warn!(%error, "an answer is not believed");
        RPCError::Network(NetworkError::new(&error))
    })
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
        let mut client = self.client()?;
        self.log.prompt().await.map_err(own_disk)?;
        // Until there is another answer, nothing is confirmed: this request may be given up.
        if let Some(known) = self.acknowledged.take()
            && known.covers(&call)
        {
            self.acknowledged = Some(known);
            self.held.hold(call, client);
            return Ok(AppendEntriesResponse::Success);
        }
        self.held.leave();
        let asked = Acknowledged {
            vote: call.vote,
            last: call
                .entries
                .last()
                .map_or(call.prev_log_id, |it| Some(it.log_id)),
            asked: Instant::now(),
        };
        let answer = client.append(request(encode(&call), &option)).await;
        let mut answer = self.read(answer)?;
        let confirmed = self.acks.of(self.node, &call.vote);
        let checked =
            plausible::append_answer(self.me, self.node, &call, confirmed.as_ref(), &mut answer);
        believed(checked)?;
        if let Some(last) = asked.last {
            self.log.written(last.index).await.map_err(own_disk)?;
        }
        if let AppendEntriesResponse::Success = answer {
            self.acks.note(self.node, asked.vote, asked.last);
            self.acknowledged = Some(asked);
        }
        Ok(answer)
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
        let mut answer: InstallSnapshotResponse<u64> = self.read(answer)?;
        plausible::snapshot_answer(self.me, self.node, &call.vote, &mut answer.vote);
        if call.done && answer.vote == call.vote {
            self.acks.note(self.node, call.vote, call.meta.last_log_id);
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        call: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<openraft::error::Infallible>> {
        let answer = self.client()?.vote(request(encode(&call), &option)).await;
        let mut answer = self.read(answer)?;
        believed(plausible::vote_answer(
            self.me,
            self.node,
            &call,
            &mut answer,
        ))?;
        Ok(answer)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use openraft::testing::{blank_ent, log_id};

    use super::*;

    fn call(term: u64, last: u64) -> AppendEntriesRequest<Types> {
        AppendEntriesRequest {
            vote: Vote::new_committed(term, 1),
            prev_log_id: Some(log_id(term, 1, last)),
            entries: Vec::new(),
            leader_commit: Some(log_id(term, 1, last)),
        }
    }

    #[test]
    fn only_what_was_just_confirmed_is_answered_here() {
        let call_of = call(7, 5);
        let just = |vote, last, asked| Acknowledged { vote, last, asked };
        let (vote, last, now) = (call_of.vote, call_of.prev_log_id, Instant::now());
        assert!(just(vote, last, now).covers(&call_of));
        assert!(!just(vote, None, now).covers(&call_of));
        assert!(!just(vote, Some(log_id(7, 1, 4)), now).covers(&call_of));
        assert!(!just(Vote::new_committed(6, 1), last, now).covers(&call_of));
        assert!(!just(vote, last, now - HOLD).covers(&call_of));
        let entries = vec![blank_ent(7, 1, 6)];
        assert!(!just(vote, last, now).covers(&AppendEntriesRequest { entries, ..call_of }));
    }
}
