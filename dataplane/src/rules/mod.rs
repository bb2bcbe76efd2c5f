//! The nftables plane: in every network's namespace the virtual services and the guard against
//! spoofed sources, on the host what crosses the networks' border. `wanted` says what should be,
//! `tables` observes, plans and applies in one namespace, by sockets of crates `nftables` and
//! `ipvs`.

mod connections;
mod failure;
mod members;
mod passage;
mod tables;
mod traffic;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use model::{Capability, SandboxId};
use nftables::Change;
use tracing::info;

pub use traffic::traffic;
pub use wanted::{Grounds, Wanted, WantedRules, rewanted, wanted};

use super::{Failure, listing::Present, namespace::Identity, state::Place, turn::Turn, undone};
use failure::failure;
use tables::Tables;

/// Runs inside a container's network namespace before any rule of ours is made there.
pub(crate) type Entered = Box<dyn Fn(SandboxId) + Send>;

/// What is left to change in one namespace.
#[derive(Debug)]
pub struct Pending {
    /// The namespace.
    pub place: Place,
    wanted: Arc<Wanted>,
    rulesets: Vec<Change>,
    services: Vec<ipvs::Op>,
    passage: Vec<Change>,
    /// The host's ports that are no longer led elsewhere.
    closed: BTreeSet<(u8, u16)>,
    /// Ports that the host begins to lead elsewhere.
    opened: BTreeSet<(u8, u16)>,
}

impl Pending {
    /// Whether the rules of the host's own namespace are not what they should be.
    pub fn leaves_host_open(&self) -> bool {
        self.place == Place::Host && !self.rulesets.is_empty()
    }

    /// One line per change, for people.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let changes = self.rulesets.iter().chain(&self.passage);
        let steps = changes.flat_map(|change| {
            change
                .steps
                .iter()
                .map(|step| format!("{step} (table {})", change.table))
        });
        let ops = self.services.iter().map(ToString::to_string);
        steps
            .chain(ops)
            .map(|line| format!("{}: nftables: {line}", self.place))
    }
}

/// The rules in the kernel, seen from one host.
pub struct Rules {
    tables: BTreeMap<Place, Tables>,
    capabilities: BTreeSet<Capability>,
    entered: Entered,
    turn: Turn,
    /// The namespace whose rules were read in turn last.
    last: Option<Place>,
    /// Those whose rules have been changed, and are to be read back in turn before others.
    unproved: BTreeSet<Place>,
}

impl Rules {
    /// On a kernel with these capabilities.
    pub(crate) fn new(capabilities: BTreeSet<Capability>, entered: Entered) -> Self {
        Self {
            tables: BTreeMap::new(),
            capabilities,
            entered,
            turn: Turn::default(),
            last: None,
            unproved: BTreeSet::new(),
        }
    }

    /// Makes the kernel hold these rules, each namespace's in one batch per table; goes on after
    /// failures. Returns what is left to change, and why.
    pub fn reconcile(
        &mut self,
        wanted: &BTreeMap<Place, Arc<Wanted>>,
    ) -> (Vec<Pending>, Vec<Failure>) {
        let place = self.take_turn(wanted);
        let start = Instant::now();
        if let Some(place) = place {
            let own = wanted.get_key_value(&place);
            // What is found is planned with the rest.
            own.into_iter()
                .for_each(|(place, wanted)| drop(self.plan_of(*place, wanted)));
            self.turn.took(start.elapsed());
            if let Some(tables) = self.tables.get_mut(&place) {
                tables.reads = 0;
            }
        }
        let (pending, unread) = self.plan(wanted);
        let Some(first) = pending.iter().flat_map(Pending::lines).next() else {
            return (pending, unread);
        };
        info!(namespaces = pending.len(), first, "changing the rules");
        let mut failures: Vec<_> = pending
            .iter()
            .filter_map(|change| self.apply(change))
            .collect();
        let (left, unread) = self.plan(wanted);
        if failures.is_empty() {
            failures.extend(left.iter().map(|change| failure(change.place, undone())));
        }
        failures.extend(unread);
        (left, failures)
    }

    /// What a pass would find to do, read anew, and what could not be read.
    pub fn differences(
        &mut self,
        wanted: &BTreeMap<Place, Arc<Wanted>>,
    ) -> (Vec<Pending>, Vec<Failure>) {
        self.tables.values_mut().for_each(|tables| {
            tables.doubt();
            tables.passage.forget();
        });
        self.plan(wanted)
    }

    /// Doubts the rules of one namespace: those changed last, or the next.
    fn take_turn(&mut self, wanted: &BTreeMap<Place, Arc<Wanted>>) -> Option<Place> {
        if !self.turn.is_due() {
            return None;
        }
        let mut places = wanted.keys();
        let place = self.unproved.pop_first().or_else(|| {
            let next = places.find(|place| Some(**place) > self.last);
            self.last = next.or(wanted.keys().next()).copied();
            self.last
        })?;
        self.tables.get_mut(&place)?.doubt();
        Some(place)
    }

    /// How many tables have been read since this was asked last, those of the turn left out.
    pub fn reads(&mut self) -> u64 {
        let tables = self.tables.values_mut();
        tables.map(|tables| std::mem::take(&mut tables.reads)).sum()
    }

    fn plan(&mut self, wanted: &BTreeMap<Place, Arc<Wanted>>) -> (Vec<Pending>, Vec<Failure>) {
        let (mut pending, mut failures) = (Vec::new(), Vec::new());
        for (&place, wanted) in wanted {
            match self.plan_of(place, wanted) {
                Ok(change) => pending.extend(change),
                Err(why) => failures.push(failure(place, why)),
            }
        }
        (pending, failures)
    }

    /// What could not be made of it.
    fn apply(&mut self, change: &Pending) -> Option<Failure> {
        let tables = self.tables.get_mut(&change.place)?;
        self.unproved.insert(change.place);
        let why = tables.apply(change).err()?;
        Some(failure(change.place, why))
    }

    /// Closes the sockets of namespaces that are gone: an open socket would keep a namespace and
    /// its tunnel alive.
    pub fn forget_the_gone(&mut self, present: &Present) {
        let is_there = |place: &Place, identity: Identity| match place {
            Place::Host => true,
            Place::Inside(namespace) => present.get(namespace) == Some(&identity),
        };
        self.tables
            .retain(|place, tables| is_there(place, tables.identity));
        self.unproved
            .retain(|place| self.tables.contains_key(place));
    }

    /// Completes when a rule has changed since it was read. Cancel-safe.
    pub async fn changed(&mut self) {
        // Each is asked, or the changes of many would be heard of one by one, a pass for each.
        poll_fn(|context| {
            let heard = self.tables.values_mut().filter(|tables| !tables.deaf).fold(
                false,
                |heard, tables| {
                    let this = tables.poll_changed(context);
                    heard || this
                },
            );
            if heard {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn plan_of(
        &mut self,
        place: Place,
        wanted: &Arc<Wanted>,
    ) -> Result<Option<Pending>, model::Failure> {
        let engine = wanted.engine.on(&self.capabilities);
        let tables = match self.tables.entry(place) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Tables::open(place, engine, &self.entered)?),
        };
        if tables.engine != engine {
            info!(%place, %engine, "another balancer takes over");
            *tables = Tables::open(place, engine, &self.entered)?;
        }
        tables.plan(place, wanted)
    }
}
