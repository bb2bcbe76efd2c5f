//! The tables and the balancer of one namespace: observes, plans and applies.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use ipvs::{Balancer, BalancerError, Clients, IpVs, Nftables, ip_vs};
use model::{
    BalancerKind,
    names::{self, LinkName, Namespace},
};
use nftables::{Change, Family, Lifetime, Monitor, NftError, Ruleset, Socket};
use rules::published;
use tracing::warn;

use super::{
    super::{
        namespace::{self, Identity},
        state::Place,
    },
    Entered, Pending, Wanted, connections,
    failure::{not_entered, said},
    passage::Passage,
};

/// Interval at which the services of IPVS are compared, which tells nobody of changes.
const COMPARE_AGAIN: Duration = Duration::from_secs(10);
/// Time after which the short way is tried again that the kernel has refused.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// The families that tables of ours may have.
const FAMILIES: [Family; 3] = [Family::Inet, Family::Netdev, Family::Arp];

/// The sockets of one namespace.
pub(super) struct Tables {
    pub identity: Identity,
    socket: Socket,
    balancer: Box<dyn Balancer>,
    pub engine: BalancerKind,
    monitor: Monitor,
    /// What is known to be there, and since when; none after any change, or where changes would not
    /// be heard of.
    settled: Option<(Arc<Wanted>, Instant)>,
    known: Option<Known>,
    /// The devices that there were chains on when the tables of devices were known last.
    devices: BTreeMap<LinkName, u32>,
    /// How many tables have been read.
    pub reads: u64,
    pub passage: Passage,
    /// Whether the monitor has failed.
    pub deaf: bool,
    /// The kernel knows no tables that go with their socket (before Linux 5.12): they stay.
    lasting: bool,
    /// Time when the kernel refused the short way; all packets take the long one.
    refused: Option<Instant>,
}

/// Tables as they were read or made. They are so while nothing in the namespace has changed.
struct Known {
    generation: u32,
    tables: BTreeMap<Family, Arc<Ruleset>>,
}

/// In the calling thread's namespace. What another engine has left there is taken away.
fn balancer(place: Place, engine: BalancerKind) -> Result<Box<dyn Balancer>, BalancerError> {
    Ok(match (place, engine) {
        (Place::Inside(Namespace::Network(_)), BalancerKind::Ipvs) => Box::new(IpVs::open()?),
        (Place::Inside(Namespace::Network(_)), _) => {
            ip_vs::withdraw()?;
            Box::new(Nftables::open(Clients::Routed)?)
        }
        (Place::Inside(Namespace::Sandbox(_) | Namespace::Container(_)) | Place::Host, _) => {
            Box::new(Nftables::open(Clients::Local)?)
        }
    })
}

impl Tables {
    /// Opens the sockets of a namespace.
    pub(super) fn open(
        place: Place,
        engine: BalancerKind,
        entered: &Entered,
    ) -> Result<Self, model::Failure> {
        let open = || -> Result<_, BalancerError> {
            if let Place::Inside(Namespace::Container(sandbox)) = place {
                entered(sandbox);
            }
            Ok((Socket::open()?, balancer(place, engine)?, Monitor::open()?))
        };
        let (opened, identity) = match place {
            Place::Host => (open(), 0),
            Place::Inside(inside) => {
                let entered = |error: io::Error| not_entered(&error);
                let (file, identity) = namespace::open(inside).map_err(entered)?;
                let opened = namespace::within_file(&file, open).map_err(entered)?;
                (opened, identity)
            }
        };
        let (socket, balancer, monitor) = opened.map_err(said)?;
        Ok(Self {
            identity,
            socket,
            balancer,
            engine,
            monitor,
            settled: None,
            known: None,
            devices: BTreeMap::new(),
            reads: 0,
            passage: Passage::default(),
            deaf: false,
            lasting: false,
            refused: None,
        })
    }

    /// Whether something has changed, as far as one hears.
    pub(super) fn poll_changed(&mut self, context: &mut Context<'_>) -> bool {
        let Poll::Ready(heard) = self.monitor.poll_changed(context) else {
            return false;
        };
        self.settled = None;
        // A monitor that fails leaves the period to find changes.
        self.deaf = heard.is_err();
        heard.is_ok()
    }

    /// What is left to change here; `None`: nothing.
    pub(super) fn plan(
        &mut self,
        place: Place,
        wanted: &Arc<Wanted>,
    ) -> Result<Option<Pending>, model::Failure> {
        if self
            .settled
            .as_ref()
            .is_some_and(|(last, since)| last == wanted && self.is_believed(*since))
        {
            return Ok(None);
        }
        self.settled = None;
        // What happens from here on is reported again; what we have changed ourselves is read now.
        self.monitor.forget();
        let mut rulesets = Vec::new();
        let (mut closed, mut opened) = (BTreeSet::new(), BTreeSet::new());
        let asked = FAMILIES.map(|family| (family, self.asked(place, wanted, family)));
        let known = self.observe(&wanted.devices).map_err(said)?;
        for (family, asked) in asked {
            let observed = known.tables.get(&family);
            let is_same = |(asked, found)| Arc::ptr_eq(asked, found);
            if asked.zip(observed).is_some_and(is_same) {
                continue;
            }
            let (asked, observed) = (asked.map(Arc::as_ref), observed.map(Arc::as_ref));
            if (place, family) == (Place::Host, Family::Inet) {
                closed = published::closed(asked, observed);
                opened = published::closed(observed, asked);
            }
            rulesets.extend(nftables::difference(asked, observed));
        }
        let services = match &wanted.services {
            Some(table) => self.balancer.plan(table).map_err(said)?,
            None => Vec::new(),
        };
        let passage = match &wanted.passage {
            Some(rules) => self.passage.plan(&mut self.socket, rules).map_err(said)?,
            None => Vec::new(),
        };
        let settled = rulesets.is_empty() && services.is_empty() && passage.is_empty();
        self.settled = (settled && !self.deaf).then(|| (wanted.clone(), Instant::now()));
        Ok((!settled).then(|| Pending {
            place,
            wanted: wanted.clone(),
            rulesets,
            services,
            passage,
            closed,
            opened,
        }))
    }

    /// The table of a family that the kernel is asked for: not the short way while it refuses that.
    fn asked<'w>(
        &self,
        place: Place,
        wanted: &'w Wanted,
        family: Family,
    ) -> Option<&'w Arc<Ruleset>> {
        let refused =
            is_shortcut(place, family) && self.refused.is_some_and(|at| at.elapsed() < TRY_AGAIN);
        wanted.table(family).filter(|_| !refused)
    }

    /// Nothing that was read is believed any more.
    pub(super) fn doubt(&mut self) {
        self.settled = None;
        self.known = None;
        self.balancer.doubt();
    }

    /// Whether what was settled then still is, where nothing has been heard since.
    fn is_believed(&self, since: Instant) -> bool {
        let is_heard = self.engine != BalancerKind::Ipvs || since.elapsed() < COMPARE_AGAIN;
        is_heard && !self.balancer.is_due()
    }

    /// The tables, read where somebody has changed nftables since. Those of devices are also read
    /// where a device has gone: the kernel takes its chains away and tells nobody.
    fn observe(&mut self, devices: &BTreeMap<LinkName, u32>) -> Result<&Known, NftError> {
        let generation = nftables::generation(&mut self.socket)?;
        let kept = self
            .known
            .take()
            .filter(|known| known.generation == generation);
        let stay = self
            .devices
            .iter()
            .all(|(link, index)| devices.get(link) == Some(index));
        let to_read = match (&kept, stay) {
            (Some(_), true) => &[][..],
            (Some(_), false) => &[Family::Netdev][..],
            (None, _) => &FAMILIES,
        };
        let mut known = kept.unwrap_or_else(|| Known {
            generation,
            tables: BTreeMap::new(),
        });
        for &family in to_read {
            self.reads += 1;
            match nftables::observe(&mut self.socket, family, names::TABLE)? {
                Some(mut found) => {
                    if self.lasting {
                        found.lifetime = Lifetime::Socket;
                    }
                    known.tables.insert(family, Arc::new(found));
                }
                None => drop(known.tables.remove(&family)),
            }
        }
        self.devices.clone_from(devices);
        Ok(self.known.insert(known))
    }

    /// If it was the only one meanwhile, nothing need be read again to find that it was not
    /// somebody else's.
    fn change(&mut self, change: &Change, made: Option<&Arc<Ruleset>>) -> Result<(), NftError> {
        let known = self.known.take();
        let before = nftables::generation(&mut self.socket)?;
        self.make(change)?;
        let generation = before.wrapping_add(1);
        // What is heard of now is our own change, or tells in the generation.
        self.monitor.forget();
        if nftables::generation(&mut self.socket)? != generation {
            return Ok(());
        }
        self.balancer.overlook(before);
        self.known = known
            .filter(|known| known.generation == before)
            .map(|mut known| {
                if change.table == names::TABLE {
                    known.tables.remove(&change.family);
                    known
                        .tables
                        .extend(made.map(|made| (change.family, made.clone())));
                }
                Known {
                    generation,
                    ..known
                }
            });
        Ok(())
    }

    fn make(&mut self, change: &Change) -> Result<(), NftError> {
        let of_kernel = change.of_kernel();
        match nftables::apply(&mut self.socket, change) {
            Err(error) if error.is_unknown() && *change != of_kernel => {
                nftables::apply(&mut self.socket, &of_kernel)?;
                self.lasting = true;
                Ok(())
            }
            made => made,
        }
    }

    /// If the balancer's were the only changes of nftables, the tables need not be read again.
    fn balance(&mut self, ops: &[ipvs::Op]) -> Result<(), BalancerError> {
        let known = self.known.take();
        let before = self.balancer.generation();
        self.balancer.apply(ops)?;
        let after = self.balancer.generation();
        self.known = known
            .filter(|known| before == Some(known.generation))
            .zip(after)
            .map(|(known, generation)| Known {
                generation,
                ..known
            });
        Ok(())
    }

    /// Makes a change, each table at once.
    pub(super) fn apply(&mut self, change: &Pending) -> Result<(), model::Failure> {
        for ruleset in &change.rulesets {
            match self.change(ruleset, change.wanted.table(ruleset.family)) {
                Ok(()) => {}
                // A kernel without CONFIG_NFT_FWD_NETDEV: slower, no worse.
                Err(error) if is_shortcut(change.place, ruleset.family) => {
                    if self.refused.replace(Instant::now()).is_none() {
                        warn!(place = %change.place, %error, "no short way between endpoints");
                    }
                }
                Err(error) => return Err(said(error)),
            }
        }
        if !change.services.is_empty() {
            self.balance(&change.services).map_err(said)?;
        }
        connections::forget(&mut self.socket, change).map_err(said)?;
        if !change.passage.is_empty() {
            self.passage.begin();
        }
        for passage in &change.passage {
            if let Err(error) = self.change(passage, None) {
                self.passage.refused(passage, &error);
            }
        }
        if change.services.is_empty() && change.passage.is_empty() && !self.deaf {
            // Every table that differed has been made as it is asked for, and nobody else has
            // changed any.
            let is_made = self.known.is_some() && self.refused.is_none();
            self.settled = is_made.then(|| (change.wanted.clone(), Instant::now()));
        }
        Ok(())
    }
}

/// Whether the table of this family is the short way between endpoints.
fn is_shortcut(place: Place, family: Family) -> bool {
    matches!(place, Place::Inside(Namespace::Network(_))) && family == Family::Netdev
}
