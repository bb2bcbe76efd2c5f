//! Deletes tracked connections to real servers that are gone, or that take no new ones and have not
//! answered yet: the client's next packet then gets a reset (TCP) or goes to another server (UDP
//! and the like). A flow of UDP has no end that could be waited for, so it leaves a server that
//! takes no new ones after a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use nftables::{Connection, Socket};
use nix::libc::IPPROTO_UDP;

use crate::{BalancerError, Op, Table};

/// How long a flow of UDP stays with a real server that takes no new ones: answers that are under
/// way arrive, and who asks by one socket for ever goes elsewhere before the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// Of one namespace.
pub(crate) struct Connections {
    /// Only what nftables translates goes on.
    translated: bool,
    /// Whether what an earlier run left has been looked for.
    swept: bool,
    /// Virtual IPs and real servers that take no new connections, and since when; `None`: flows of
    /// UDP have left them.
    closed: BTreeMap<(IpAddr, IpAddr), Option<Instant>>,
}

impl Connections {
    /// Where nftables translates.
    pub(crate) fn translated() -> Self {
        Self {
            translated: true,
            swept: false,
            closed: BTreeMap::new(),
        }
    }

    /// Where anything may have translated.
    pub(crate) fn any() -> Self {
        Self {
            translated: false,
            swept: false,
            closed: BTreeMap::new(),
        }
    }

    /// Whether flows of UDP have to leave a server by now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.closed.values().any(|since| is_over(*since, now))
    }

    /// Connections that an earlier, interrupted run left, and flows that have to leave a server,
    /// for people.
    pub(crate) fn damage(
        &mut self,
        socket: &mut Socket,
        table: &Table,
        now: Instant,
    ) -> Result<Option<String>, BalancerError> {
        self.note(table, now);
        let left = self.left(now);
        if table.services.is_empty() || self.swept && left.is_empty() {
            return Ok(None);
        }
        let stale = |found: &Connection| {
            let concerned = !self.swept && table.services.contains_key(&found.destination);
            concerned && self.is_stale(found, table) || has_to_leave(found, &left)
        };
        let count = nftables::count(socket, stale)?;
        if count == 0 {
            self.have_left(&left);
        }
        Ok((count > 0).then(|| {
            format!("forget {count} connections to real servers that are gone or take no new ones")
        }))
    }

    /// Notes which servers take no new connections. IPVS knows connections of its own and lets
    /// nobody delete one: there a flow leaves a server with the server.
    fn note(&mut self, table: &Table, now: Instant) {
        let closed = table.services.iter().flat_map(|(vip, service)| {
            let servers = service.real_servers.iter();
            servers
                .filter(|(_, weight)| **weight == 0)
                .map(move |(server, _)| (*vip, *server))
        });
        let closed: BTreeSet<_> = closed.filter(|_| self.translated).collect();
        self.closed.retain(|pair, _| closed.contains(pair));
        for pair in closed {
            self.closed.entry(pair).or_insert(Some(now));
        }
    }

    /// The servers that flows of UDP have to leave by now.
    fn left(&self, now: Instant) -> BTreeSet<(IpAddr, IpAddr)> {
        let due = self
            .closed
            .iter()
            .filter(|(_, since)| is_over(**since, now));
        due.map(|(pair, _)| *pair).collect()
    }

    fn have_left(&mut self, left: &BTreeSet<(IpAddr, IpAddr)>) {
        for pair in left {
            self.closed.insert(*pair, None);
        }
    }

    /// Deletes connections to the real servers that these ops have removed, and flows that have to
    /// leave one; the first time, all stale ones.
    pub(crate) fn forget(
        &mut self,
        socket: &mut Socket,
        ops: &[Op],
        left: &Table,
        now: Instant,
    ) -> Result<(), BalancerError> {
        self.note(left, now);
        let leaving = self.left(now);
        let shrunk = ops.iter().filter_map(|op| match op {
            Op::DelService { vip }
            | Op::DelRealServer { vip, .. }
            | Op::SetWeight { vip, weight: 0, .. } => Some(*vip),
            _ => None,
        });
        let shrunk: BTreeSet<IpAddr> = shrunk.collect();
        let gone = |found: &Connection| {
            let concerned = !self.swept && left.services.contains_key(&found.destination);
            (concerned || shrunk.contains(&found.destination)) && self.is_stale(found, left)
                || has_to_leave(found, &leaving)
        };
        let unswept = !self.swept && !left.services.is_empty();
        if !shrunk.is_empty() || !leaving.is_empty() || unswept {
            nftables::forget(socket, gone)?;
        }
        self.swept = true;
        self.have_left(&leaving);
        Ok(())
    }

    /// Whether a connection to a virtual IP leads to a service or real server that is gone, or that
    /// must not have it.
    fn is_stale(&self, found: &Connection, table: &Table) -> bool {
        let Some(service) = table.services.get(&found.destination) else {
            return true;
        };
        match service.real_servers.get(&found.server) {
            None => true,
            // Its first packet may have been lost: the next one must not go to a server that takes
            // no new connections.
            Some(0) if !found.answered => true,
            Some(_) => self.translated && !found.translated,
        }
    }
}

fn is_over(since: Option<Instant>, now: Instant) -> bool {
    since.is_some_and(|since| now.duration_since(since) >= GRACE)
}

fn has_to_leave(found: &Connection, left: &BTreeSet<(IpAddr, IpAddr)>) -> bool {
    i32::from(found.protocol) == IPPROTO_UDP && left.contains(&(found.destination, found.server))
}
