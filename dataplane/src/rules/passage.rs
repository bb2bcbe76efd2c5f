//! The way through the forward chains of other software on the host, which would drop what passes
//! between networks and the outside.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use model::names;
use nftables::{Change, NftError, Overtake, Rule, Socket};
use tracing::warn;

/// Time after which a change of a locked table is retried.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Other software may insist on the first place, too: our rules are moved before foreign ones at
/// most this often in [`OVERTAKING`].
const OVERTAKINGS: usize = 5;
const OVERTAKING: Duration = Duration::from_secs(10);

/// What was tried lately.
#[derive(Default)]
pub(super) struct Passage {
    /// When rules of others were overtaken.
    overtaken: VecDeque<Instant>,
    /// Tables whose owners let nobody change them, and when that was tried.
    barred: BTreeMap<String, Instant>,
}

impl Passage {
    /// Others' rules may be overtaken again.
    pub(super) fn forget(&mut self) {
        self.overtaken.clear();
    }

    /// What is missing of our rules in foreign chains, as they are now.
    pub(super) fn plan(
        &mut self,
        socket: &mut Socket,
        rules: &[Rule],
    ) -> Result<Vec<Change>, NftError> {
        self.overtaken.retain(|at| at.elapsed() < OVERTAKING);
        let overtake = if self.overtaken.len() < OVERTAKINGS {
            Overtake::Now
        } else {
            Overtake::Later
        };
        let chains = nftables::foreign_forward_chains(socket, names::is_table)?;
        let mut changes = nftables::passage(rules, &chains, overtake);
        self.barred.retain(|_, at| at.elapsed() < TRY_AGAIN);
        changes.retain(|change| !self.barred.contains_key(&change.table));
        Ok(changes)
    }

    /// Changes are about to be made.
    pub(super) fn begin(&mut self) {
        self.overtaken.push_back(Instant::now());
    }

    /// A table locked by its owner must not fail the rest.
    pub(super) fn refused(&mut self, change: &Change, error: &NftError) {
        let next = "accept interfaces nu-* in that firewall's own configuration, both ways";
        warn!(table = change.table, %error, next, "a firewall may drop what leaves networks");
        self.barred.insert(change.table.clone(), Instant::now());
    }
}
