//! The leader's own loop: proposes the commands of `step`, and sets which nodes are ready or down.

use std::{path::Path, sync::Arc, time::Duration};

use futures::future::join_all;
use model::{
    ClusterCommand, Command, Failure, Kind, NodeCommand, NodeId, NodeStatus, RequestId,
    StateMachine,
};
use openraft::error::Fatal;
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    Halt, Member, files, panic,
    raft::{Consensus, Retry, SEGMENT_BYTES, confirmed, now},
    reach::{self, Reach, Verdict},
};

/// The longest time between two steps.
const STEP_INTERVAL: Duration = Duration::from_millis(200);
/// Changes within this time lead to one step.
const DEBOUNCE: Duration = Duration::from_millis(3);
/// How often a disk that has failed is tried.
const PROBE: Duration = Duration::from_secs(2);

/// Runs for as long as the manager does; acts only while it leads.
pub(crate) async fn run<S: StateMachine>(member: Member<S>, consensus: Arc<Consensus<S>>) {
    // One receiver for the whole loop: a new one would report the present value as a change, and
    // this loop would never sleep.
    let mut metrics = consensus.raft.metrics();
    loop {
        if consensus.standing.leads() {
            lead(&consensus).await;
        }
        let woken = timeout(STEP_INTERVAL, metrics.changed()).await;
        let failed = metrics
            .borrow_and_update()
            .running_state
            .as_ref()
            .err()
            .cloned();
        match failed {
            Some(Fatal::Stopped | Fatal::Panicked) => return,
            Some(error) => {
                member.is_ill(ended(&consensus, &error));
                takes_writes_again(&consensus.directory).await;
                tracing::info!("the disk takes writes: netd starts anew");
                member.halt(Halt::Mended);
                return;
            }
            None if matches!(woken, Ok(Err(_))) => return,
            None => {}
        }
    }
}

/// Halts the member where Raft has panicked, of which its metrics say nothing.
pub(crate) async fn watch_for_panics<S: StateMachine>(
    member: Member<S>,
    consensus: Arc<Consensus<S>>,
) {
    loop {
        sleep(STEP_INTERVAL).await;
        let panicked = consensus.raft.is_initialized().await == Err(Fatal::Panicked);
        if panicked || panic::has_struck() {
            return member.halt(Halt::Panicked);
        }
    }
}

/// Raft has ended on this manager, which is to be seen on others, too.
fn ended<S>(consensus: &Consensus<S>, error: &Fatal<u64>) -> Failure {
    let directory = consensus.directory.display();
    let (cause, next) = match error {
        Fatal::StorageError(error) => (
            format!("its log cannot be written: {error}"),
            format!("free space, or mend the disk of {directory}: netd then goes on by itself"),
        ),
        error => (
            format!("Raft has ended: {error}"),
            "netd starts itself anew in some seconds; its log says more".to_owned(),
        ),
    };
    tracing::error!(
        cause,
        next,
        "this manager votes no more; the rest of netd goes on"
    );
    let cause = format!("this manager votes no more: {cause}");
    Failure::new(Kind::Unavailable, cause, next).about("Raft")
}

/// Returns once the log has room for its next segment.
pub(crate) async fn takes_writes_again(directory: &Path) {
    while !takes_writes(directory).await {}
}

/// Whether the log has room for its next segment. Not before a while: what fails again at once is
/// not to be started again at once.
async fn takes_writes(directory: &Path) -> bool {
    sleep(PROBE).await;
    let directory = directory.to_owned();
    let probed = spawn_blocking(move || files::take(&directory, SEGMENT_BYTES.into())).await;
    matches!(probed, Ok(Ok(())))
}

async fn lead<S: StateMachine>(consensus: &Consensus<S>) {
    // All that earlier leaders committed is applied first: `step` must not run on an older state.
    if confirmed(consensus.raft.ensure_linearizable())
        .await
        .is_err()
    {
        return;
    }
    tracing::info!(node = %consensus.me, "this manager leads");
    let mut applied = consensus.machine.applied();
    let mut reach = Reach::new();
    let mut agenda = S::Agenda::default();
    while consensus.standing.leads() {
        applied.borrow_and_update();
        let verdict = reach.look(&consensus.standing);
        if verdict == Verdict::Resign {
            let next = "let TCP port 2377 of this host pass its firewall";
            tracing::warn!(node = %consensus.me, next,
                "the other managers cannot reach this leader: one of them is to lead");
            consensus.standing.resign().await;
            continue;
        }
        let mut commands = statuses(consensus, verdict);
        if let Some(level) = consensus.next_level() {
            tracing::info!(%level, "every member knows the next level: the cluster goes up");
            commands.push(ClusterCommand::RaiseLevel { level }.into());
        }
        for (node, key) in consensus.new_keys() {
            commands.push(NodeCommand::SetKey { node, key }.into());
        }
        commands.extend(
            consensus
                .machine
                .read(|state| state.step(&mut agenda, now())),
        );
        propose(consensus, commands).await;
        if let Ok(Ok(())) = timeout(STEP_INTERVAL, applied.changed()).await {
            sleep(DEBOUNCE).await;
        }
    }
    tracing::info!(node = %consensus.me, "this manager leads no more");
}

fn statuses<S: StateMachine>(consensus: &Consensus<S>, verdict: Verdict) -> Vec<Command> {
    let known: Vec<(NodeId, NodeStatus)> = consensus.machine.read(|state| {
        state
            .nodes()
            .values()
            .map(|node| (node.id, node.status))
            .collect()
    });
    let change = |(node, status): (NodeId, NodeStatus)| {
        let next = reach::status(&consensus.standing, verdict, node, status)?;
        if next == NodeStatus::Ready && !consensus.may_be_ready(node, status) {
            return None;
        }
        tracing::info!(%node, status = %next, "node changes");
        Some(Command::Node(NodeCommand::SetStatus { node, status: next }))
    };
    known.into_iter().filter_map(change).collect()
}

async fn propose<S: StateMachine>(consensus: &Consensus<S>, commands: Vec<Command>) {
    let writes = commands.into_iter().map(async |command| {
        match consensus.write(RequestId(rand::random()), command).await {
            // The state has moved on since the step: the next step sees it.
            Ok(Err(refusal)) if refusal.kind != Kind::Precondition => {
                tracing::warn!(cause = refusal.cause, "a step of the leader was refused");
            }
            Err(Retry(reason)) => tracing::debug!(reason, "a step of the leader was not taken"),
            Ok(_) => {}
        }
    });
    join_all(writes).await;
}
