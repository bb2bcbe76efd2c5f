//! How long the control plane waits. What must hold between these times is tested here.

use std::{ops::Range, time::Duration};

/// A leader that has nothing to say is heard at each tick of openraft, which is half as long again.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);
/// A follower that has heard nothing stands for election after the maximum, for which it votes for
/// nobody else, and a part of this range that it drew when it started. Within the minimum a vote
/// has to be on the voter's disk and back.
pub(crate) const ELECTION: Range<Duration> = Duration::from_millis(300)..Duration::from_millis(400);
/// After this silence a follower asks whether the leader still answers, and whether the others
/// hear it.
pub(crate) const SUSPECT: Duration = Duration::from_millis(250);
/// Who has heard the leader within this time elects no other one.
pub(crate) const HEARD: Duration = Duration::from_millis(200);
/// How long the answer may take; there is no election meanwhile, nor while there is one.
pub(crate) const ASK: Duration = Duration::from_millis(200);
/// A leader that answers, but appends nothing for this long, is replaced all the same.
pub(crate) const STUCK: Duration = Duration::from_millis(1_500);
/// A leader that no majority has confirmed for this long refuses requests.
pub(crate) const LEADER_LEASE: Duration = Duration::from_secs(3);
/// How long a majority may take to confirm a write or a read.
pub(crate) const CONFIRM: Duration = Duration::from_secs(4);
/// A node that is silent for this long is down.
pub(crate) const NODE_LEASE: Duration = Duration::from_secs(3);
/// How long a leader that steps down leaves the others alone, so that they elect one of them.
pub(crate) const RESIGN: Duration = Duration::from_secs(5);
/// Time that nodes get to be heard, after a change of leader or a pause of this process, before
/// they count as down.
pub(crate) const GRACE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};

    const TICK: Duration = Duration::from_millis(150);

    #[test]
    fn times_fit_together() {
        assert_eq!(TICK, HEARTBEAT * 3 / 2);
        let earliest = ELECTION.end + ELECTION.start;
        // One lost heartbeat is no silence, and two are no election.
        assert!(SUSPECT > TICK && earliest > 3 * TICK);
        // A leader that all hear is heard again within this time, and who suspects it finds others
        // that have heard nothing for as long.
        assert!(HEARD > TICK && HEARD < SUSPECT);
        // A leader that is gone is known to be before the first election could be.
        assert!(SUSPECT + ASK + HEARTBEAT < earliest);
        // A leader's power cut: the slowest follower stands for election within a second.
        assert!(ELECTION.end * 2 + TICK <= Duration::from_secs(1));
        // ARCHITECTURE promises that a silent leader is replaced within 3 s.
        assert!(STUCK + ELECTION.end * 2 + TICK <= Duration::from_secs(3));
        // Whoever waits for the old leader still waits when there is a new one.
        assert!(STUCK + ELECTION.end * 2 < CONFIRM);
        // Nodes have found the new leader before it judges them.
        assert!(GRACE > NODE_LEASE && LEADER_LEASE < CONFIRM);
        // A dead connection ends before its node counts as down.
        assert!(KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT <= NODE_LEASE);
    }
}
