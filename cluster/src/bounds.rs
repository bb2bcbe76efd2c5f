//! What one member lets others take of it before it knows them: connections, tries of a join
//! token, lines of its log.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use model::{Kind, Node, NodeId, Refusal};
use rustix::process::{Resource, getrlimit};

use crate::{
    JoinCall,
    buckets::{Buckets, Common, Origin, Rate},
    places::{Most, Places},
};

/// The largest call of a host that joins. Its certificate request has some 500 bytes.
pub(crate) const JOIN_BYTES: usize = 16 << 10;
const REQUEST_BYTES: usize = 4 << 10;
/// The most of a path or reason that is logged.
const LOGGED_BYTES: usize = 128;

/// Connections that have not shown yet whose they are: after a change of leader every node comes at
/// once.
const HANDSHAKES: Most = Most {
    in_all: 4096,
    of_one: 64,
};
/// Connections without a certificate.
const STRANGERS: Most = Most {
    in_all: 64,
    of_one: 8,
};
/// Connections of one member: it needs one, and a further one for each address that it was known
/// by.
const OF_A_MEMBER: usize = 32;
/// The parts of the file descriptors that handshakes and strangers get at most.
const OF_HANDSHAKES: usize = 4;
const OF_STRANGERS: usize = 16;
/// Descriptors left for members, in parts of all: where one of them is reached no stranger is
/// served.
const RESERVE: u64 = 8;
const DESCRIPTORS: u64 = 1024;

const WRONG_JOINS: Rate = Rate {
    burst: 16,
    every: Duration::from_secs(1),
};
const LINES: Rate = Rate {
    burst: 16,
    every: Duration::from_secs(1),
};
const LINES_OF_ALL: Rate = Rate {
    burst: 64,
    every: Duration::from_millis(200),
};

/// The bounds and what is taken of them.
pub(crate) struct Bounds {
    pub handshakes: Places<Origin>,
    pub strangers: Places<Origin>,
    pub members: Places<NodeId>,
    descriptors: u64,
    wrong_joins: Buckets,
    lines: Buckets,
    lines_of_all: Common,
    left_out: AtomicU64,
}

impl Bounds {
    /// Those of this process.
    pub(crate) fn new() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::with(descriptors)
    }

    fn with(descriptors: u64) -> Self {
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let at_most = |most: Most, all: usize| Most {
            in_all: most.in_all.min(all).max(1),
            ..most
        };
        let of_members = Most {
            in_all: all / 2,
            of_one: OF_A_MEMBER,
        };
        Self {
            handshakes: Places::new(at_most(HANDSHAKES, all / OF_HANDSHAKES)),
            strangers: Places::new(at_most(STRANGERS, all / OF_STRANGERS)),
            members: Places::new(of_members),
            descriptors,
            wrong_joins: Buckets::new(WRONG_JOINS),
            lines: Buckets::new(LINES),
            lines_of_all: Common::new(LINES_OF_ALL),
            left_out: AtomicU64::new(0),
        }
    }

    /// Whether the descriptor of a new connection is one of those that are kept for members. The
    /// kernel gives the lowest that is free: all below are in use.
    pub(crate) fn is_reserved(&self, descriptor: i32) -> bool {
        let reserve = (self.descriptors / RESERVE).min(DESCRIPTORS);
        u64::try_from(descriptor).is_ok_and(|number| number >= self.descriptors - reserve)
    }

    /// Refuses a call that no host of ours makes, and one from where too many wrong tokens came.
    /// Whoever gets `Ok` tells [`Bounds::joined`] of a right one.
    pub(crate) fn join(&self, from: IpAddr, call: &JoinCall) -> Result<(), Refusal> {
        Node::check_hostname(&call.hostname)?;
        if call.request.len() > REQUEST_BYTES {
            let cause = format!(
                "the certificate request has {} bytes; at most {REQUEST_BYTES} are taken",
                call.request.len()
            );
            let next = "join by `swarmctl join` of this version";
            return Err(Refusal::new(Kind::Invalid, cause, next));
        }
        if !self.wrong_joins.take(from.into()) {
            let cause = format!("too many wrong join tokens came from {from}");
            let next = "wait a few seconds, then join with the token that `swarmctl token worker` \
                        or `swarmctl token manager` prints on a manager";
            return Err(Refusal::new(Kind::Exhausted, cause, next));
        }
        Ok(())
    }

    /// The token was right.
    pub(crate) fn joined(&self, from: IpAddr) {
        self.wrong_joins.give_back(from.into());
    }

    /// Whether something about this peer may be logged, which anybody can cause: the line says how
    /// many others were left out before it.
    pub(crate) fn may_log(&self, peer: SocketAddr) -> Option<u64> {
        if self.lines.take(peer.ip().into()) && self.lines_of_all.take() {
            return Some(self.lines_left_out());
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// How many lines were left out since this was asked last.
    pub(crate) fn lines_left_out(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }
}

/// The beginning of a text from outside, without what would break a line.
pub(crate) fn shortened(text: &str) -> String {
    let mut short = String::new();
    for letter in text.chars() {
        if short.len() + letter.len_utf8() > LOGGED_BYTES {
            short.push('…');
            break;
        }
        short.push(if letter.is_control() { '?' } else { letter });
    }
    short
}

#[cfg(test)]
mod tests {
    use model::{Level, Secret};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn call(hostname: &str, request: &str) -> JoinCall {
        JoinCall {
            secret: Secret::new(1),
            request: request.to_owned(),
            hostname: hostname.to_owned(),
            address: (HERE, 1).into(),
            vtep: HERE,
            level: Level::NEWEST,
        }
    }

    #[test]
    fn calls_that_no_host_makes_are_refused_before_anything_else() {
        let bounds = Bounds::with(1024);
        let longest = "h".repeat(64);
        assert_eq!(bounds.join(HERE, &call(&longest, "")), Ok(()));
        let huge = "h".repeat(4_000_000);
        for name in ["", "a\nb", "\u{1b}[2J", &format!("{longest}h"), &huge] {
            let refusal = bounds.join(HERE, &call(name, "")).unwrap_err();
            assert!(
                refusal.kind == Kind::Invalid && refusal.in_full().len() < 300,
                "{refusal}"
            );
        }
        let refusal = bounds.join(HERE, &call("h", &huge)).unwrap_err();
        assert!(refusal.cause.contains("4000000 bytes"), "{refusal}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_few_wrong_tokens_and_any_number_of_right_ones() {
        let bounds = Bounds::with(1024);
        for _ in 0..1000 {
            bounds.join(HERE, &call("h", "")).unwrap();
            bounds.joined(HERE);
        }
        let tries = (0..1000).filter(|_| bounds.join(HERE, &call("h", "")).is_ok());
        assert_eq!(tries.count(), WRONG_JOINS.burst as usize);
        let refusal = bounds.join(HERE, &call("h", "")).unwrap_err();
        assert!(
            refusal.kind == Kind::Exhausted && refusal.next.contains("wait"),
            "{refusal}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_few_and_those_left_out_are_counted() {
        let bounds = Bounds::with(1024);
        let peer = (HERE, 1).into();
        let said: Vec<u64> = (0..1000).filter_map(|_| bounds.may_log(peer)).collect();
        assert_eq!(said, vec![0; LINES.burst as usize]);
        tokio::time::advance(LINES.every).await;
        assert_eq!(bounds.may_log(peer), Some(1000 - u64::from(LINES.burst)));
        assert_eq!(bounds.lines_left_out(), 0);
    }

    #[test]
    fn descriptors_are_kept_for_members() {
        let bounds = Bounds::with(20_000);
        assert!(!bounds.is_reserved(18_000) && bounds.is_reserved(19_500));
        let few = Bounds::with(64);
        assert!(few.is_reserved(60) && !few.is_reserved(20));
        let unlimited = Bounds::with(u64::MAX);
        assert!(!unlimited.is_reserved(i32::MAX));
    }

    #[test]
    fn texts_from_outside_are_cut_before_they_are_logged() {
        assert_eq!(
            shortened("/netd.v1.Control/Query"),
            "/netd.v1.Control/Query"
        );
        assert_eq!(shortened("a\nb\u{1b}"), "a?b?");
        let short = shortened(&"ä".repeat(100_000));
        assert!(short.len() <= LOGGED_BYTES + '…'.len_utf8() && short.ends_with('…'));
    }
}
