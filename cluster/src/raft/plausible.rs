//! What no honest manager says. openraft believes the managers that it knows, and panics where one
//! lies to it: such messages and answers are refused before it sees them. No I/O.

use std::net::SocketAddr;

use model::NodeId;
use openraft::{
    BasicNode, EntryPayload, LeaderId, Membership, SnapshotMeta, StoredMembership, Vote,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse},
};

use super::{LogId, Types};

/// How far a manager's term goes up by one message. A term is an election, of which a cluster
/// without a majority holds about one a second: this is a century of them. A term that cannot be
/// counted up would be the last one. Managers that somebody has led further apart than this come
/// together step by step: were they only to refuse each other, they would do so for ever.
const LEAP: u64 = 1 << 32;
/// The last index that a log may have: 10,000 entries a second for 200,000 years.
const LAST_INDEX: u64 = 1 << 56;
/// The most managers of a cluster.
const MANAGERS: usize = 1_000;
/// The longest name of a snapshot.
const SNAPSHOT_NAME: usize = 128;

/// Why a message is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("manager {} says what no honest one does: {lie}", NodeId(*from))]
pub(crate) struct Implausible {
    from: u64,
    lie: &'static str,
}

impl Implausible {
    pub(super) fn of(from: NodeId, lie: &'static str) -> Self {
        Self { from: from.0, lie }
    }
}

/// What this manager is sure of when a message comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub me: u64,
    pub vote: Vote<u64>,
    pub committed: Option<LogId>,
}

type Checked = Result<(), &'static str>;

/// A manager, by its certificate, stands for election.
pub(super) fn vote(own: &Own, from: u64, call: &VoteRequest<u64>) -> Result<(), Implausible> {
    let checked = || {
        sender(own, from, &call.vote)?;
        demand(!call.vote.committed, "it asks for votes as a leader")?;
        call.last_log_id.as_ref().map_or(Ok(()), reached)
    };
    checked().map_err(|lie| Implausible { from, lie })
}

/// A manager, by its certificate, appends as leader.
pub(super) fn append(
    own: &Own,
    from: u64,
    call: &AppendEntriesRequest<Types>,
) -> Result<(), Implausible> {
    appended(own, from, call).map_err(|lie| Implausible { from, lie })
}

fn appended(own: &Own, from: u64, call: &AppendEntriesRequest<Types>) -> Checked {
    sender(own, from, &call.vote)?;
    demand(call.vote.committed, "it appends without being elected")?;
    if call.vote < own.vote {
        // A leader of the past, which is told so; openraft looks at nothing else.
        return Ok(());
    }
    let mut before = call.prev_log_id;
    if let Some(before) = &before {
        belongs(own, &call.vote, before)?;
    }
    for entry in &call.entries {
        let next = before.map_or(0, |before| before.index + 1);
        demand(
            entry.log_id.index == next,
            "its entries do not follow one another",
        )?;
        demand(
            Some(entry.log_id) > before,
            "its entries are of falling terms",
        )?;
        belongs(own, &call.vote, &entry.log_id)?;
        if let EntryPayload::Membership(membership) = &entry.payload {
            voters(membership)?;
        }
        before = Some(entry.log_id);
    }
    let Some(committed) = &call.leader_commit else {
        return Ok(());
    };
    belongs(own, &call.vote, committed)?;
    let entries = call.entries.iter().map(|entry| &entry.log_id);
    let mut known = call.prev_log_id.iter().chain(entries);
    let differs = |id: &&LogId| id.index == committed.index && *id != committed;
    demand(
        !known.any(|id| differs(&id)),
        "it commits an entry that it does not have",
    )
}

/// The end of what an append request may commit: Raft commits no more than the request shows to be
/// there (figure 2 of the paper).
pub(super) fn shown(call: &AppendEntriesRequest<Types>) -> Option<LogId> {
    let last = call.entries.last().map(|entry| entry.log_id);
    last.or(call.prev_log_id)
}

/// A manager, by its certificate, sends a snapshot as leader.
pub(super) fn snapshot(
    own: &Own,
    from: u64,
    vote: &Vote<u64>,
    meta: &SnapshotMeta<u64, BasicNode>,
) -> Result<(), Implausible> {
    let checked = || {
        sender(own, from, vote)?;
        demand(vote.committed, "it sends a snapshot without being elected")?;
        demand(
            meta.snapshot_id.len() <= SNAPSHOT_NAME,
            "its snapshot has too long a name",
        )?;
        if *vote < own.vote {
            return Ok(());
        }
        demand(
            within_reach(&own.vote, vote) == *vote,
            "its term is out of reach, for now",
        )?;
        let last = meta.last_log_id.ok_or("its snapshot is of nothing")?;
        belongs(own, vote, &last)?;
        stored_voters(&meta.last_membership, &last)
    };
    checked().map_err(|lie| Implausible { from, lie })
}

/// What another manager, asked to append, answers that has confirmed entries of this leader before.
/// Its vote is brought within reach.
pub(super) fn append_answer(
    me: u64,
    from: u64,
    asked: &AppendEntriesRequest<Types>,
    confirmed: Option<&LogId>,
    answer: &mut AppendEntriesResponse<u64>,
) -> Result<(), Implausible> {
    let checked = match answer {
        AppendEntriesResponse::Success => Ok(()),
        AppendEntriesResponse::PartialSuccess(_) => Err("it takes a part, which nobody does"),
        AppendEntriesResponse::Conflict => {
            let before = asked.prev_log_id.as_ref();
            let lost = before.is_none_or(|before| confirmed.is_some_and(|last| before <= last));
            demand(
                !lost,
                "it lacks entries that it had confirmed, as if its disk had lost them",
            )
        }
        AppendEntriesResponse::HigherVote(vote) => {
            answered(me, from, &asked.vote, vote);
            demand(
                *vote > asked.vote,
                "it follows another leader, which came before this one",
            )
        }
    };
    checked.map_err(|lie| Implausible { from, lie })
}

/// What another manager, asked for its vote, answers. Its vote is brought within reach.
pub(super) fn vote_answer(
    me: u64,
    from: u64,
    asked: &VoteRequest<u64>,
    answer: &mut VoteResponse<u64>,
) -> Result<(), Implausible> {
    let mut checked = || {
        answer.last_log_id.as_ref().map_or(Ok(()), reached)?;
        if answer.vote == asked.vote {
            return Ok(());
        }
        demand(
            !answer.vote_granted,
            "it grants another vote than was asked for",
        )?;
        answered(me, from, &asked.vote, &mut answer.vote);
        Ok(())
    };
    checked().map_err(|lie| Implausible { from, lie })
}

/// The vote of a manager that was sent a snapshot, within reach.
pub(super) fn snapshot_answer(me: u64, from: u64, asked: &Vote<u64>, vote: &mut Vote<u64>) {
    answered(me, from, asked, vote);
}

/// A vote with a term that this manager's may become by one message.
pub(super) fn within_reach(own: &Vote<u64>, vote: &Vote<u64>) -> Vote<u64> {
    let mut vote = *vote;
    let highest = own.leader_id.term.saturating_add(LEAP);
    vote.leader_id.term = vote.leader_id.term.min(highest);
    vote
}

fn demand(holds: bool, lie: &'static str) -> Checked {
    if holds { Ok(()) } else { Err(lie) }
}

fn sender(own: &Own, from: u64, vote: &Vote<u64>) -> Checked {
    demand(
        vote.leader_id.node_id == from,
        "it speaks for another manager",
    )?;
    demand(from != own.me, "it says that it is this manager")
}

/// A vote that another manager knows of, within reach. One of this manager's own that it never cast
/// is somebody's lie to the other, which must follow again: it counts as the other's.
fn answered(me: u64, from: u64, asked: &Vote<u64>, vote: &mut Vote<u64>) {
    *vote = within_reach(asked, vote);
    if vote.leader_id.node_id == me && *vote > *asked {
        *vote = Vote::new(vote.leader_id.term, from);
    }
}

fn reached(id: &LogId) -> Checked {
    demand(id.index <= LAST_INDEX, "its log is longer than logs are")
}

/// Whether an entry can be one of the log that this leader has: no leader has written what comes
/// after it, and all that is committed here is in its log, too.
fn belongs(own: &Own, vote: &Vote<u64>, id: &LogId) -> Checked {
    reached(id)?;
    let leader: &LeaderId<u64> = &id.leader_id;
    demand(
        *leader <= vote.leader_id,
        "it has an entry of a leader after it",
    )?;
    let Some(committed) = own.committed else {
        return Ok(());
    };
    let agrees = (id.index <= committed.index) == (*id <= committed);
    demand(
        agrees,
        "it has another entry in place of one that is committed",
    )
}

fn stored_voters(stored: &StoredMembership<u64, BasicNode>, last: &LogId) -> Checked {
    let since = stored.log_id().ok_or("nobody votes by its snapshot")?;
    let follows = since.index <= last.index && since <= *last;
    demand(follows, "its snapshot is older than the membership in it")?;
    voters(stored.membership())
}

/// Whether a majority can be told, and everybody who counts for it be found.
fn voters(membership: &Membership<u64, BasicNode>) -> Checked {
    let configs = membership.get_joint_config();
    let is_sound = matches!(configs.len(), 1 | 2) && configs.iter().all(|it| !it.is_empty());
    demand(is_sound, "nobody votes by its membership")?;
    let nodes = membership.nodes();
    demand(
        nodes.count() <= MANAGERS,
        "it has more managers than a cluster may",
    )?;
    let is_address = |node: &BasicNode| node.addr.parse::<SocketAddr>().is_ok();
    let mut nodes = membership.nodes();
    demand(
        nodes.all(|(_, node)| is_address(node)),
        "a manager's address is none",
    )?;
    let is_there = |voter: u64| membership.get_node(&voter).is_some();
    demand(
        membership.voter_ids().all(is_there),
        "a manager that votes has no address",
    )
}
