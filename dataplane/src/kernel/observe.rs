//! Reads what there is of ours: only what notices, changes of ours or the turn name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    ops::Bound,
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use model::names::{LinkName, Namespace};
use tracing::{debug, warn};

use super::{
    super::{
        channel::KernelError,
        desired::Desired,
        doubt::Doubt,
        listing::Present,
        namespace,
        plan::Observed,
        read::Unread,
        state::{Link, ObservedKind, ObservedLink, Place, Space, Sysctl},
        wire,
    },
    Kernel, Turns,
};

/// Namespaces that are read in one turn, without a notice.
const TURN: usize = 10;

/// What a namespace held when it was read.
type Seen = Arc<Space<ObservedLink>>;

impl Kernel {
    /// What there is of ours, with the values below /proc/sys that `desired` speaks of.
    pub(crate) fn observe(&mut self, desired: &Arc<Desired>) -> Result<Arc<Observed>, KernelError> {
        let mut present = self.present()?;
        if self.restore_names(desired, &present) {
            present = self.present()?;
        }
        self.follow_namespaces(&present)?;
        self.listen_to_new()?;
        // What happens from here on is reported again.
        self.hear();
        let start = Instant::now();
        let mut read = BTreeMap::new();
        let mut host_cost = Duration::ZERO;
        for &place in &self.stale {
            let Some(channel) = self.channels.get_mut(&place) else {
                continue;
            };
            let asked = desired.spaces.get(&place).map(Arc::as_ref);
            channel.has_shapes |= asked.is_some_and(|space| !space.shapes.is_empty());
            channel.has_policies |= asked.is_some_and(|space| !space.policies.is_empty());
            let (before, dumps) = (channel.seen.clone(), channel.dumps);
            let unread = channel.observe(&self.host, asked)?;
            if !self.turns.now.contains(&place) {
                self.dumps += channel.dumps - dumps;
            }
            if place.is_foreign()
                && let Some(seen) = &mut channel.seen
            {
                only_ours(Arc::make_mut(seen), asked);
            }
            if place == Place::Host {
                host_cost = start.elapsed();
            }
            read.insert(place, (before, unread));
        }
        self.read_sysctls(desired, &read)?;
        for (place, (before, _)) in read {
            self.publish(place, before);
        }
        self.stale.clear();
        self.channels
            .get_mut(&Place::Host)
            .into_iter()
            .for_each(|host| host.kept.clear());
        self.end_turn(host_cost, start.elapsed());
        Ok(self.observed.clone())
    }

    /// Takes over what was read. What is as it was stays the same value.
    fn publish(&mut self, place: Place, before: Option<Seen>) {
        let Some(channel) = self.channels.get_mut(&place) else {
            return;
        };
        if before.is_some() && channel.seen == before {
            channel.seen = before;
        }
        let Some(seen) = &channel.seen else {
            return;
        };
        let known = self.observed.spaces.get(&place);
        if !known.is_some_and(|known| Arc::ptr_eq(known, seen)) {
            Arc::make_mut(&mut self.observed)
                .spaces
                .insert(place, seen.clone());
        }
    }

    /// Listens to the namespaces that are to be read for the first time.
    fn listen_to_new(&mut self) -> Result<(), KernelError> {
        for &place in &self.stale {
            let Some(channel) = self.channels.get(&place) else {
                continue;
            };
            if channel.seen.is_some() {
                continue;
            }
            let namespace = channel.namespace.as_raw_fd();
            // One that has a number keeps it.
            self.ear.ask(vec![(wire::number_namespace(namespace), 0)]);
            let number = self
                .ear
                .number(namespace)
                .map_err(|error| KernelError::Open(place, error))?;
            self.notices.follow(place, number);
        }
        Ok(())
    }

    /// Marks some namespaces to be read even without a notice, because some changes cause none.
    pub(super) fn take_turn(&mut self) {
        let Turns {
            host, others, last, ..
        } = &mut self.turns;
        let mut turn = BTreeSet::new();
        if others.is_due() {
            let after = (
                Bound::Excluded(last.unwrap_or(Place::Host)),
                Bound::Unbounded,
            );
            let later = self.channels.range(after);
            let inside = later.chain(self.channels.iter()).map(|(place, _)| *place);
            let inside = inside.filter(|place| *place != Place::Host);
            let chosen: Vec<Place> = inside.take(TURN).collect();
            *last = chosen.last().copied();
            turn.extend(chosen);
        }
        turn.extend(host.is_due().then_some(Place::Host));
        for &place in &turn {
            self.doubt(place, Doubt::whole());
        }
        self.turns.now.extend(turn);
    }

    /// What was in doubt has been read in so much time, the host's part before the rest.
    fn end_turn(&mut self, host: Duration, all: Duration) {
        let now = std::mem::take(&mut self.turns.now);
        let spent = std::mem::take(&mut self.turns.spent);
        if now.contains(&Place::Host) {
            self.turns.host.took(spent + host);
        }
        if now.iter().any(|place| *place != Place::Host) {
            self.turns.others.took(all.saturating_sub(host));
        }
    }

    /// Restores the names of namespaces that lost only their names; programs inside do not notice.
    /// Returns whether there were any.
    fn restore_names(&mut self, desired: &Arc<Desired>, present: &Arc<Present>) -> bool {
        let is_same = |(asked, there): &(Arc<Desired>, Arc<Present>)| {
            Arc::ptr_eq(asked, desired) && Arc::ptr_eq(there, present)
        };
        if self.named.as_ref().is_some_and(is_same) {
            return false;
        }
        let (mut restored, mut lacks) = (false, false);
        for &place in desired.spaces.keys() {
            let Place::Inside(namespace) = place else {
                continue;
            };
            if present.contains_key(&namespace) {
                continue;
            }
            lacks = true;
            let held = self
                .channels
                .get(&place)
                .and_then(|channel| channel.namespace.try_clone().ok());
            let lived_in = || match namespace {
                Namespace::Sandbox(sandbox) | Namespace::Container(sandbox) => {
                    (self.inhabited)(sandbox)
                }
                Namespace::Network(_) => None,
            };
            let is_unknown = held.is_none();
            let Some(file) = held.or_else(lived_in) else {
                continue;
            };
            match namespace {
                Namespace::Container(_) if is_unknown => {
                    debug!(%place, "a container's namespace gets a name")
                }
                _ => warn!(%place, "a namespace lost its name and gets it back"),
            }
            // Where that fails, a new one is made.
            namespace::restore(&namespace.name(), &file)
                .unwrap_or_else(|error| warn!(%place, %error, "the name cannot be given back"));
            restored = true;
        }
        self.named = (!lacks).then(|| (desired.clone(), present.clone()));
        restored
    }

    /// Closes the sockets of namespaces that are gone and opens some in new ones.
    fn follow_namespaces(&mut self, present: &Arc<Present>) -> Result<(), KernelError> {
        if Arc::ptr_eq(&self.followed, present) {
            return Ok(());
        }
        let gone = self.channels.iter().filter(|(place, channel)| match place {
            Place::Host => false,
            Place::Inside(namespace) => present.get(namespace) != Some(&channel.identity),
        });
        let gone: Vec<Place> = gone.map(|(place, _)| *place).collect();
        gone.into_iter().for_each(|place| self.leave(place));
        self.notices
            .keep(|place| self.channels.contains_key(&place));
        for &namespace in present.keys() {
            self.follow(namespace)
                .map_err(|error| KernelError::Open(Place::Inside(namespace), error))?;
        }
        self.followed = present.clone();
        Ok(())
    }

    /// Reads the values that were not told with their links.
    fn read_sysctls(
        &mut self,
        desired: &Desired,
        read: &BTreeMap<Place, (Option<Seen>, Unread)>,
    ) -> Result<(), KernelError> {
        let asked = read.iter().filter_map(|(place, (_, unread))| {
            let channel = self.channels.get(place)?;
            let known = &channel.seen.as_ref()?.sysctls;
            let told = |key: &Sysctl| wire::is_told(key) && known.contains_key(key);
            let keys = desired.spaces.get(place)?.sysctls.keys();
            let keys: Vec<&Sysctl> = keys.filter(|key| unread.holds(key) && !told(key)).collect();
            (!keys.is_empty()).then_some((*place, &channel.namespace, keys))
        });
        let asked: Vec<(Place, &File, Vec<&Sysctl>)> = asked.collect();
        if asked.is_empty() {
            return Ok(());
        }
        let (mut last, mut found) = (Place::Host, Vec::new());
        let trees = &mut self.trees;
        let read = namespace::away(|| {
            for (place, file, keys) in &asked {
                last = *place;
                namespace::enter(file)?;
                let tree = trees.next()?;
                let values = keys
                    .iter()
                    .map(|key| ((*key).clone(), tree.read(&key.path())));
                found.push((*place, values.collect::<Vec<_>>()));
            }
            io::Result::Ok(())
        });
        read.map_err(|error| KernelError::Sysctl(last, error))?;
        for (place, values) in found {
            let seen = self
                .channels
                .get_mut(&place)
                .and_then(|channel| channel.seen.as_mut());
            let Some(seen) = seen else {
                continue;
            };
            for (key, value) in values {
                if seen.sysctls.get(&key) == value.as_ref() {
                    continue;
                }
                let sysctls = &mut Arc::make_mut(seen).sysctls;
                match value {
                    Some(value) => drop(sysctls.insert(key, value)),
                    None => drop(sysctls.remove(&key)),
                }
            }
        }
        Ok(())
    }
}

/// Of a foreign namespace keep only what we want there, and what only we can have made.
fn only_ours(seen: &mut Space<ObservedLink>, asked: Option<&Space<Link>>) {
    let asks_for = |name: &LinkName| asked.is_some_and(|asked| asked.links.contains_key(name));
    seen.links.retain(|name, link| {
        link.ours || asks_for(name) || matches!(link.kind, ObservedKind::Stacked(_))
    });
    seen.addresses
        .retain(|key, _| asked.is_some_and(|asked| asked.addresses.contains_key(key)));
    seen.neighbours
        .retain(|key, _| asked.is_some_and(|asked| asked.neighbours.contains_key(key)));
    seen.routes
        .retain(|_, route| route.link().is_some_and(asks_for));
}
