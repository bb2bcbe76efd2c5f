//! The leader's end of a session: sends the node its view as it changes, and puts its reports into
//! the log.

use std::{pin::Pin, sync::Arc, time::Duration};

use api::{encode, proto::Json};
use futures::{Stream, StreamExt};
use model::{
    Command, Kind, NodeCommand, NodeId, NodeReport, RequestId, StateMachine, TooNew, Update,
};
use tokio::{
    sync::mpsc,
    time::{interval, sleep},
};

use crate::{
    Downward, Upward,
    raft::{Consensus, Retry, confirmed},
};

/// Interval at which a session checks that this manager still leads.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Messages queued for a slow node; then the session waits.
pub const QUEUE: usize = 64;

/// What a node sends.
pub type Upstream = Pin<Box<dyn Stream<Item = Upward> + Send>>;

/// Opens a session of this node, which ends with its stream or with this manager's leadership.
pub fn open<S: StateMachine>(
    consensus: Arc<Consensus<S>>,
    node: NodeId,
    upstream: Upstream,
) -> mpsc::Receiver<Json> {
    let (down, receiver) = mpsc::channel(QUEUE);
    let session = Session {
        consensus,
        node,
        down,
    };
    tokio::spawn(session.run(upstream));
    receiver
}

struct Session<S> {
    consensus: Arc<Consensus<S>>,
    node: NodeId,
    /// Messages as they travel: [`Downward`].
    down: mpsc::Sender<Json>,
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
        let number = self.consensus.session_opens(node, level);
        let cluster = self.consensus.machine.read(StateMachine::level);
        let _over = if level < cluster {
            let next = TooNew::NEXT;
            tracing::warn!(%node, "the node's netd knows levels up to {level}, and the cluster is \
                at level {cluster}: the node gets no view and counts as down; next: {next}");
            self.refuse(upstream).await
        } else {
            self.serve(upstream, generation, &digest).await
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
                _ = check.tick() => if !self.consensus.leads() { return Err(Over) },
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
        self.consensus.hear(self.node);
        let view = self.consensus.fanout.subscribe(self.node);
        let mut check = interval(CHECK_INTERVAL);
        let mut told = None;
        loop {
            tokio::select! {
                message = upstream.next() => self.hear(message.ok_or(Over)?)?,
                () = view.woken.notified() => {
                    let next = match &told {
                        None => view.resume(generation, digest),
                        told => view.update(told.as_ref()),
                    };
                    if let Some((update, now)) = next {
                        self.send(changed(&update)).await?;
                        told = Some(now);
                    }
                }
                _ = check.tick() => if !self.consensus.leads() { return Err(Over) },
                () = self.down.closed() => return Err(Over),
            }
        }
    }

    async fn send(&self, message: Json) -> Result<(), Over> {
        self.down.send(message).await.map_err(|_| Over)
    }

    fn hear(&self, message: Upward) -> Result<(), Over> {
        self.consensus.hear(self.node);
        match message {
            Upward::Alive => Ok(()),
            Upward::Report { sequence, report } if report.node == self.node => {
                tokio::spawn(record(
                    self.consensus.clone(),
                    sequence,
                    report,
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

/// [`Downward::Change`], of an update that is encoded already.
fn changed(update: &Update) -> Json {
    let json = format!("{{\"kind\":\"change\",\"delta\":{}}}", update.to_json());
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
    down: mpsc::Sender<Json>,
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
                let _gone = down
                    .send(encode(&Downward::Acknowledged { sequence }))
                    .await;
                return;
            }
            Err(Retry(reason)) => tracing::debug!(%node, reason, "a node's report waits"),
        }
        if down.is_closed() || !consensus.leads() {
            return;
        }
        sleep(CHECK_INTERVAL).await;
    }
}
