//! Whom a leader reaches and who reaches it: which nodes it may call down, and when it has to leave
//! the lead to a manager that others reach.

use std::time::Duration;

use model::{NodeId, NodeStatus};
use tokio::time::Instant;

use crate::{raft::Standing, timing::GRACE};

/// A look this late means that this process was paused; the silence of nodes then says nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a leader that no majority reaches leads on.
const PATIENCE: Duration = Duration::from_secs(1);
/// Nobody else took the lead: it is left to others again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// What a leader has seen since it leads.
pub(crate) struct Reach {
    /// Since when nodes have had time to be heard.
    grace_from: Instant,
    looked: Instant,
    /// When it was last reached, had the grace of a new leader, or may count as not reached.
    well: Instant,
}

/// What a leader may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Call nodes down that are silent.
    Judge,
    /// Call none down: silence may be its own fault.
    Wait,
    /// Leave the lead to another manager.
    Resign,
}

impl Reach {
    /// Of a manager that begins to lead.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            grace_from: now,
            looked: now,
            well: now,
        }
    }

    /// To be called several times a second.
    pub(crate) fn look(&mut self, standing: &Standing) -> Verdict {
        if self.looked.elapsed() > PAUSE {
            self.grace_from = Instant::now();
        }
        self.looked = Instant::now();
        let is_new = self.grace_from.elapsed() <= GRACE;
        let is_well = is_reached(standing);
        if is_new || is_well {
            self.well = self.looked;
        } else if self.well.elapsed() > PATIENCE {
            self.well = self.looked + AGAIN;
            return Verdict::Resign;
        }
        if is_new || !is_well {
            return Verdict::Wait;
        }
        Verdict::Judge
    }
}

/// Whether a majority of the managers, this one counted, confirms its log and has sessions with it;
/// or the others could not do without it. Else it would call nodes down that run well, and another
/// manager may be one that a majority reaches.
fn is_reached(standing: &Standing) -> bool {
    let voters = standing.voters().len();
    let mut others = standing.other_voters();
    if others.len() * 2 <= voters {
        return true;
    }
    others.retain(|(node, _)| standing.hears(*node) && standing.is_confirmed_by(*node));
    (1 + others.len()) * 2 > voters
}

/// What a node becomes, if anything.
pub(crate) fn status(
    standing: &Standing,
    verdict: Verdict,
    node: NodeId,
    status: NodeStatus,
) -> Option<NodeStatus> {
    match (standing.hears(node), status) {
        (true, NodeStatus::Unknown | NodeStatus::Down) => Some(NodeStatus::Ready),
        // A manager that confirms the log runs, and so do its tasks.
        (false, NodeStatus::Ready) if standing.is_confirmed_by(node) => None,
        (false, NodeStatus::Ready) if verdict == Verdict::Judge => Some(NodeStatus::Down),
        _ => None,
    }
}
