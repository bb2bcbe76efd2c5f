//! The leader's end of a session: sends the node its view as it changes, and puts its reports into
//! the log.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use model::{
    Command, Kind, NodeCommand, NodeConfig, NodeId, NodeReport, RequestId, StateMachine, ViewDelta,
};
use sha2::{Digest, Sha256};
use tokio::{
    sync::mpsc,
    time::{Instant, interval, sleep, sleep_until},
};

use crate::{
    Downward, Upward,
    raft::{Consensus, Retry, confirmed},
};

/// Changes within this time after a sent one are sent together; a single change is sent at once.
const COALESCE: Duration = Duration::from_millis(3);
/// Interval at which a session checks that this manager still leads.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Messages queued for a slow node; then the session waits.
pub const QUEUE: usize = 64;

/// What a node sends.
pub type Upstream = Pin<Box<dyn Stream<Item = Upward> + Send>>;

/// The digest of a view's records, whatever its generation.
pub fn digest(view: &NodeConfig) -> String {
    let records = serde_json::to_vec(&view.snapshot().set).unwrap_or_default();
    Sha256::digest(records)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Opens a session of this node, which ends with its stream or with this manager's leadership.
pub fn open<S: StateMachine>(
    consensus: Arc<Consensus<S>>,
    node: NodeId,
    upstream: Upstream,
) -> mpsc::Receiver<Downward> {
    let (down, receiver) = mpsc::channel(QUEUE);
    let session = Session {
        consensus,
        node,
        down,
        sent: None,
        seen: None,
    };
    tokio::spawn(session.run(upstream));
    receiver
}

struct Session<S> {
    consensus: Arc<Consensus<S>>,
    node: NodeId,
    down: mpsc::Sender<Downward>,
    /// What the node has.
    sent: Option<NodeConfig>,
    /// The log index up to which that is what the node is to have.
    seen: Option<u64>,
}

/// The session is over.
struct Over;

impl<S: StateMachine> Session<S> {
    async fn run(mut self, mut upstream: Upstream) {
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
        self.consensus.hear(node);
        tracing::debug!(%node, generation, "session opened");
        // A leader that has not applied all committed entries would send a new node an old view.
        if confirmed(self.consensus.raft.ensure_linearizable())
            .await
            .is_err()
        {
            return;
        }
        let number = self.consensus.session_opens(node, level);
        let _over = self.serve(upstream, generation, &digest).await;
        self.consensus.session_ends(node, number);
        tracing::debug!(%node, "session closed");
    }

    async fn serve(
        &mut self,
        mut upstream: Upstream,
        generation: u64,
        digest: &str,
    ) -> Result<(), Over> {
        let mut applied = self.consensus.machine.applied();
        let mut check = interval(CHECK_INTERVAL);
        self.update(generation, digest).await?;
        let mut due = Instant::now();
        loop {
            tokio::select! {
                message = upstream.next() => self.hear(message.ok_or(Over)?)?,
                changed = applied.changed() => {
                    changed.map_err(|_| Over)?;
                    sleep_until(due).await;
                    applied.borrow_and_update();
                    self.update(generation, digest).await?;
                    due = Instant::now() + COALESCE;
                }
                _ = check.tick() => if !self.consensus.leads() { return Err(Over) },
                () = self.down.closed() => return Err(Over),
            }
        }
    }

    /// Sends what has changed for the node since the last time.
    async fn update(&mut self, generation: u64, digest: &str) -> Result<(), Over> {
        let machine = &self.consensus.machine;
        let (index, view) =
            machine.read_if_concerned(self.node, self.seen, |state| state.view(self.node));
        let Some(view) = view else {
            self.seen = Some(index);
            return Ok(());
        };
        // A leader that has not caught up must not send a node an older view.
        if view.generation < generation {
            return Ok(());
        }
        let delta = match &self.sent {
            None if digest == self::digest(&view) => ViewDelta {
                from: Some(generation),
                ..view.delta(&view)
            },
            None => view.snapshot(),
            Some(sent) => sent.delta(&view),
        };
        let has_it = |sent: &NodeConfig| delta.is_empty() && sent.level == view.level;
        if self.sent.as_ref().is_some_and(has_it) {
            self.seen = Some(index);
            return Ok(());
        }
        self.down
            .send(Downward::Change { delta })
            .await
            .map_err(|_| Over)?;
        (self.sent, self.seen) = (Some(view), Some(index));
        Ok(())
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

/// Puts a report into the log and acknowledges it. Without an acknowledgement the node sends it
/// again, here or to the next leader.
async fn record<S: StateMachine>(
    consensus: Arc<Consensus<S>>,
    sequence: u64,
    report: NodeReport,
    down: mpsc::Sender<Downward>,
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
                let _gone = down.send(Downward::Acknowledged { sequence }).await;
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
