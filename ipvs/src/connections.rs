//! Deletes tracked connections to real servers that are gone, or that take no new ones and have not
//! answered yet: the client's next packet then gets a reset (TCP) or goes to another server (UDP
//! and the like).

use std::{collections::BTreeSet, net::IpAddr};

use nftables::{Connection, Socket};

use crate::{BalancerError, Op, Table};

/// Of one namespace.
pub(crate) struct Connections {
    /// Only what nftables translates goes on.
    translated: bool,
    /// Whether what an earlier run left has been looked for.
    swept: bool,
}

impl Connections {
    /// Where nftables translates.
    pub(crate) fn translated() -> Self {
        Self {
            translated: true,
            swept: false,
        }
    }

    /// Where anything may have translated.
    pub(crate) fn any() -> Self {
        Self {
            translated: false,
            swept: false,
        }
    }

    /// Stale connections that an earlier, interrupted run left, for people.
    pub(crate) fn damage(
        &self,
        socket: &mut Socket,
        table: &Table,
    ) -> Result<Option<String>, BalancerError> {
        if self.swept || table.services.is_empty() {
            return Ok(None);
        }
        let stale = |found: &Connection| {
            table.services.contains_key(&found.destination) && self.is_stale(found, table)
        };
        let count = nftables::count(socket, stale)?;
        Ok(
            (count > 0)
                .then(|| format!("forget {count} connections to real servers that are gone")),
        )
    }

    /// Deletes connections to the real servers that these ops have removed; the first time, all
    /// stale ones.
    pub(crate) fn forget(
        &mut self,
        socket: &mut Socket,
        ops: &[Op],
        left: &Table,
    ) -> Result<(), BalancerError> {
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
        };
        if !shrunk.is_empty() || !self.swept && !left.services.is_empty() {
            nftables::forget(socket, gone)?;
        }
        self.swept = true;
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
