//! When a follower may stand for election. openraft's own time-outs are short, so that a leader
//! whose power is cut is soon replaced. They alone would also replace one whose disk or processor
//! is slow for a moment, so a follower that hears nothing asks the leader's host, and waits while
//! that says that it leads.

use std::{sync::Arc, time::Duration};

use model::StateMachine;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Member,
    link::Target,
    raft::{Consensus, Seat},
    timing::{ASK, STUCK, SUSPECT},
};

const LOOK: Duration = Duration::from_millis(50);
/// A look this late means that this process was paused: it says nothing of the leader.
const PAUSED: Duration = Duration::from_millis(150);

/// Runs for as long as the manager does.
pub async fn watch<S: StateMachine>(member: Member<S>, consensus: Arc<Consensus<S>>) {
    let mut since = Instant::now();
    let mut leader = None;
    loop {
        let before = Instant::now();
        sleep(LOOK).await;
        let seat = consensus.seat();
        if before.elapsed() > LOOK + PAUSED || seat != leader {
            (since, leader) = (Instant::now(), seat);
        }
        since = since.max(consensus.leader_heard());
        let Some(Seat::There(node, address)) = seat else {
            consensus.may_stand(true);
            continue;
        };
        let silence = since.elapsed();
        if silence < SUSPECT || silence > STUCK {
            consensus.may_stand(silence > STUCK);
            continue;
        }
        let node = Some(node);
        let answer = timeout(ASK, member.ask(Target { address, node })).await;
        let leads = answer.is_ok_and(|said| said.is_ok_and(|said| said.leader == place(seat)));
        if !leads {
            tracing::debug!(leader = %address, ?silence, "the leader does not answer");
        }
        consensus.may_stand(!leads);
    }
}

fn place(seat: Option<Seat>) -> Option<(model::NodeId, std::net::SocketAddr)> {
    match seat {
        Some(Seat::There(node, address)) => Some((node, address)),
        _ => None,
    }
}
