//! When a follower may stand for election. openraft's own time-outs are short, so that a leader
//! whose power is cut is soon replaced. They alone would also replace one whose disk or processor
//! is slow for a moment, or that one follower cannot hear while all others do. So a follower that
//! hears nothing asks all who vote:
//!
//! - It waits while the leader's host says that it leads, though not for ever.
//! - It stands only where a majority would vote for it, and who hears a leader would not (pre-vote;
//!   Raft's dissertation, 9.6). One manager that nobody can reach takes no lead away.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::future::join_all;
use model::{NodeId, StateMachine};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Leadership, Member,
    link::Target,
    raft::{Seat, Standing},
    timing::{ASK, HEARD, STUCK, SUSPECT},
};

const LOOK: Duration = Duration::from_millis(50);
/// A look this late means that this process was paused: it says nothing of the leader.
const PAUSED: Duration = Duration::from_millis(150);

/// A manager, and where it listens.
pub(crate) type Place = (NodeId, SocketAddr);

/// The way to the other managers.
pub(crate) trait Others: Send + Sync {
    /// What one of them says of the leader; `None` where it does not answer.
    fn ask(&self, place: Place) -> impl Future<Output = Option<Leadership>> + Send;
}

impl<S: StateMachine> Others for Member<S> {
    async fn ask(&self, (node, address): Place) -> Option<Leadership> {
        let node = Some(node);
        Member::ask(self, Target { address, node }).await.ok()
    }
}

/// Runs for as long as the manager does.
pub(crate) async fn watch(standing: Arc<Standing>, others: impl Others) {
    let mut since = Instant::now();
    let mut leader = None;
    loop {
        let before = Instant::now();
        sleep(LOOK).await;
        let seat = standing.seat();
        if before.elapsed() > LOOK + PAUSED || seat != leader {
            (since, leader) = (Instant::now(), seat);
        }
        since = standing.leader_heard().map_or(since, |at| since.max(at));
        let may = match seat {
            Some(Seat::Here) => true,
            Some(Seat::There(..)) if since.elapsed() < SUSPECT => false,
            Some(Seat::There(node, address)) => {
                let stuck = since.elapsed() > STUCK;
                let leader = Some((node, address)).filter(|_| !stuck);
                may_stand(&others, &standing.other_voters(), leader).await
            }
            // Whom a manager that does not vote could ask is no matter.
            None if !standing.may_vote() => false,
            None => may_stand(&others, &standing.other_voters(), None).await,
        };
        standing.may_stand(may);
    }
}

/// Asks all who vote whether this manager may stand for election.
async fn may_stand(others: &impl Others, voters: &[Place], leader: Option<Place>) -> bool {
    let mut asked = Vec::new();
    for &place in voters {
        asked.push(async move { (place, said(others, place).await) });
    }
    wins(&join_all(asked).await, leader)
}

async fn said(others: &impl Others, place: Place) -> Option<Leadership> {
    timeout(ASK, others.ask(place)).await.ok().flatten()
}

/// Whether a majority would elect who asks, and the leader, if it counts, says that it leads no
/// more. Each of the others that vote has its answer.
fn wins(answers: &[(Place, Option<Leadership>)], leader: Option<Place>) -> bool {
    let mut votes = 1;
    for (place, answer) in answers {
        let Some(answer) = answer else { continue };
        if leader == Some(*place) && answer.leader == leader {
            return false;
        }
        // One of an earlier version does not say.
        let silence = answer.silence.map(Duration::from_millis);
        if silence.is_none_or(|silence| silence >= HEARD) {
            votes += 1;
        }
    }
    votes * 2 > answers.len() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: Place = (
        NodeId(1),
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1),
    );

    fn says(node: u64, silence: impl Into<Option<u64>>) -> (Place, Option<Leadership>) {
        let (leader, silence) = (Some(LEADER), silence.into());
        (
            (NodeId(node), LEADER.1),
            Some(Leadership { leader, silence }),
        )
    }

    fn silent(node: u64) -> (Place, Option<Leadership>) {
        ((NodeId(node), LEADER.1), None)
    }

    #[test]
    fn a_voter_that_hears_a_leader_elects_no_other() {
        assert!(!wins(&[silent(1), says(2, 50)], None));
        assert!(wins(&[silent(1), says(2, 250)], None));
        assert!(wins(&[silent(1), says(2, None)], None));
        assert!(!wins(&[silent(1), silent(2)], None));
        assert!(wins(&[], None));
        assert!(!wins(
            &[says(1, 0), says(2, 300), says(3, 10), says(4, 10)],
            None
        ));
        assert!(wins(
            &[says(1, 0), says(2, 300), says(3, 300), silent(4)],
            None
        ));
    }

    #[test]
    fn a_leader_that_answers_is_waited_for() {
        let both = [says(1, 900), says(2, 900)];
        assert!(!wins(&both, Some(LEADER)));
        assert!(wins(&both, None));
        assert!(wins(&[silent(1), says(2, 900)], Some(LEADER)));
    }
}
