//! The leader's end of a session: sends the node its view as it changes, and puts its reports into
//! the log.

use std::{future::pending, pin::Pin, sync::Arc, time::Duration};

use api::{encode, proto::Json};
use futures::{Stream, StreamExt, stream};
use model::{
    Command, KeyDigest, Kind, NodeCommand, NodeId, NodeReport, RequestId, StateMachine, Told,
    TooNew, Update,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{interval, sleep, timeout},
};

use crate::{
    Downward, PeerIdentity, Upward,
    fanout::Subscription,
    raft::{Consensus, Retry, SessionPeer, confirmed},
};

/// Interval at which a session checks that this manager still leads.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The largest message of a node: a report of 10,000 tasks has some 3 MB.
pub(crate) const UPWARD_BYTES: usize = 8 << 20;
/// Messages queued for a slow node; then the session waits.
pub(crate) const QUEUE: usize = 64;

/// Whole views of at least this many bytes take turns.
const LARGE: usize = 64 << 10;
/// KiB of large views that are on their way at the same time, of all sessions. A thousand nodes
/// that come at once want gigabytes.
pub(crate) const ROOM: usize = 64 << 10;
/// How long a large view takes room at most, sent or not. Nodes that read slowly must not keep
/// others from their views.
const ROOM_TIME: Duration = Duration::from_secs(3);

/// What a node sends.
pub(crate) type Upstream = Pin<Box<dyn Stream<Item = Upward> + Send>>;

/// Opens a session of this node, which ends with its stream or with this manager's leadership.
pub(crate) fn open<S: StateMachine>(
    consensus: Arc<Consensus<S>>,
    peer: PeerIdentity,
    upstream: Upstream,
) -> impl Stream<Item = Json> + Send + 'static {
    let (down, receiver) = mpsc::channel(QUEUE);
    let session = Session {
        consensus,
        node: peer.node,
        key: peer.key,
        down,
    };
    tokio::spawn(session.run(upstream));
    unpacked(receiver)
}

/// A message on its way, and the room that it takes until it is sent.
struct Parcel {
    /// As it travels: [`Downward`].
    message: Json,
    room: Option<Room>,
}

/// The messages. The next one is asked for once the connection has sent most of the one before,
/// which then takes no room any more.
fn unpacked(parcels: mpsc::Receiver<Parcel>) -> impl Stream<Item = Json> + Send + 'static {
    stream::unfold((parcels, None), |(mut parcels, sent)| async move {
        drop(sent);
        let Parcel { message, room } = parcels.recv().await?;
        Some((message, (parcels, room)))
    })
}

/// Room for a large view, taken until this is dropped, and not for ever.
struct Room {
    _sending: oneshot::Sender<()>,
}

fn keep(room: OwnedSemaphorePermit) -> Room {
    let (_sending, sent) = oneshot::channel();
    tokio::spawn(async move {
        let _sent_or_late = timeout(ROOM_TIME, sent).await;
        drop(room);
    });
    Room { _sending }
}

/// Room for an update, which waits its turn.
type Turn = Pin<Box<dyn Future<Output = Option<Room>> + Send>>;

/// A turn for a large view; none for what goes at once.
fn turn_for(update: &Update, room: &Arc<Semaphore>) -> Option<Turn> {
    let bytes = update.bytes();
    if !update.is_whole() || bytes < LARGE {
        return None;
    }
    let needed = (bytes >> 10).min(ROOM) as u32;
    let turn = room.clone().acquire_many_owned(needed);
    // It is never closed.
    Some(Box::pin(async move { turn.await.ok().map(keep) }))
}

/// Waits for a turn, where there is one to wait for.
async fn comes(turn: &mut Option<Turn>) -> Option<Room> {
    match turn {
        Some(turn) => turn.await,
        None => pending().await,
    }
}

struct Session<S> {
    consensus: Arc<Consensus<S>>,
    node: NodeId,
    key: KeyDigest,
    down: mpsc::Sender<Parcel>,
}

/// The session is over.
struct Over;

impl<S: StateMachine> Session<S> {
    async fn run(self, mut upstream: Upstream) {
        let Some(Upward::Hello {
            node,
            generation,
            digest,
            level,
        }) = upstream.next().await
        else {
            return;
        };
        if node != self.node {
            tracing::warn!(certificate = %self.node, claimed = %node,
                "a session for another node was refused");
            return;
        }
        tracing::debug!(%node, generation, "session opened");
        // A leader that has not applied all committed entries would send a new node an old view.
        if confirmed(self.consensus.raft.ensure_linearizable())
            .await
            .is_err()
        {
            return;
        }
        let number = self.consensus.session_opens(
            node,
            SessionPeer {
                level,
                key: self.key,
            },
        );
        let cluster = self.consensus.machine.read(StateMachine::level);
        let _over = if level < cluster {
            let next = TooNew::NEXT;
            tracing::warn!(%node, next, "the node's netd knows levels up to {level}, and the \
                cluster is at level {cluster}: the node gets no view and counts as down");
            self.refuse(upstream).await
        } else {
            tokio::select! {
                over = self.serve(upstream, generation, &digest) => over,
                // A session goes on whether or not its node was reached.
                () = self.reach() => Err(Over),
            }
        };
        self.consensus.session_ends(node, number);
        tracing::debug!(%node, "session closed");
    }

    /// Keeps the session of a node that could not read its view, and neither tells nor hears
    /// anything: a version before levels opens another one at once where it is closed.
    async fn refuse(&self, mut upstream: Upstream) -> Result<(), Over> {
        let mut check = interval(CHECK_INTERVAL);
        loop {
            tokio::select! {
                message = upstream.next() => drop(message.ok_or(Over)?),
                _ = check.tick() => if !self.consensus.standing.leads() { return Err(Over) },
                () = self.down.closed() => return Err(Over),
            }
        }
    }

    async fn serve(
        &self,
        mut upstream: Upstream,
        generation: u64,
        digest: &str,
    ) -> Result<(), Over> {
        self.consensus.standing.hear(self.node);
        let view = self.consensus.fanout.subscribe(self.node);
        let mut check = interval(CHECK_INTERVAL);
        let mut told: Option<Told> = None;
        let mut turn: Option<Turn> = None;
        loop {
            tokio::select! {
                message = upstream.next() => self.hear(message.ok_or(Over)?)?,
                () = view.woken.notified(), if turn.is_none() => {
                    if let Some((update, now)) = next(&view, told.as_ref(), generation, digest) {
                        turn = turn_for(&update, &self.consensus.room);
                        if turn.is_none() {
                            self.send(changed(&update), None).await?;
                            told = Some(now);
                        }
                    }
                }
                room = comes(&mut turn) => {
                    turn = None;
                    if let Some((update, now)) = next(&view, told.as_ref(), generation, digest) {
                        self.send(changed(&update), room).await?;
                        told = Some(now);
                    }
                }
                _ = check.tick() => if !self.consensus.standing.leads() { return Err(Over) },
                () = self.down.closed() => return Err(Over),
            }
        }
    }

    /// Tries to reach the node. Never returns.
    async fn reach(&self) {
        self.consensus.reach(self.node).await;
        pending::<()>().await;
    }

    async fn send(&self, message: Json, room: Option<Room>) -> Result<(), Over> {
        let parcel = Parcel { message, room };
        self.down.send(parcel).await.map_err(|_| Over)
    }

    fn hear(&self, message: Upward) -> Result<(), Over> {
        self.consensus.standing.hear(self.node);
        match message {
            Upward::Alive => Ok(()),
            Upward::Report { sequence, report } if report.node == self.node => {
                tokio::spawn(record(
                    self.consensus.clone(),
                    sequence,
                    report.bounded(),
                    self.down.clone(),
                ));
                Ok(())
            }
            Upward::Report { .. } | Upward::Hello { .. } => {
                tracing::warn!(node = %self.node,
                    "a node spoke out of turn; its session is closed");
                Err(Over)
            }
        }
    }
}

/// What a node is to be told next that has been told this or, at first, has a view of this
/// generation and digest.
fn next<S: StateMachine>(
    view: &Subscription<S>,
    told: Option<&Told>,
    generation: u64,
    digest: &str,
) -> Option<(Update, Told)> {
    match told {
        None => view.resume(generation, digest),
        told => view.update(told),
    }
}

/// [`Downward::Change`], of an update that is encoded already.
fn changed(update: &Update) -> Json {
    let mut json = String::with_capacity(update.bytes());
    json.push_str("{\"kind\":\"change\",\"delta\":");
    update.write_json(&mut json);
    json.push('}');
    Json {
        json: json.into_bytes(),
    }
}

/// Puts a report into the log and acknowledges it. Without an acknowledgement the node sends it
/// again, here or to the next leader.
async fn record<S: StateMachine>(
    consensus: Arc<Consensus<S>>,
    sequence: u64,
    report: NodeReport,
    down: mpsc::Sender<Parcel>,
) {
    let node = report.node;
    let request = RequestId(rand::random());
    loop {
        match consensus
            .write(request, Command::Node(NodeCommand::Report(report.clone())))
            .await
        {
            Ok(response) => {
                if let Err(refusal) = response
                    && !matches!(refusal.kind, Kind::Precondition | Kind::NotFound)
                {
                    tracing::warn!(%node, cause = refusal.cause, "a node's report was refused");
                }
                let parcel = Parcel {
                    message: encode(&Downward::Acknowledged { sequence }),
                    room: None,
                };
                let _gone = down.send(parcel).await;
                return;
            }
            Err(Retry(reason)) => tracing::debug!(%node, reason, "a node's report waits"),
        }
        if down.is_closed() || !consensus.standing.leads() {
            return;
        }
        sleep(CHECK_INTERVAL).await;
    }
}
