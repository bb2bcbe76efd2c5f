//! The kernel by rtnetlink: reads our objects in all namespaces, and changes them.

mod apply;
mod ground;
mod observe;
mod refusal;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs::File,
    future::poll_fn,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use model::{Capability, ContainerConfig, Failure, NodeConfig, SandboxId, names::Namespace};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

pub(crate) use ground::Asked;

use super::{
    channel::{Channel, KernelError, listen},
    desired::{Desired, Ground},
    doubt::Doubt,
    listing::{Listing, Present},
    namespace,
    notices::{News, Notices},
    plan::{Observed, Op},
    state::Place,
    sysctl::Trees,
    turn::Turn,
    wire,
};

/// Time after which a container's namespace that was there is looked for again.
const ALIVE: Duration = Duration::from_millis(900);
/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV6_IFADDR`, `_IPV4_RULE`, `_IPV6_RULE` of linux/rtnetlink.h.
const HOST_GROUPS: [u32; 5] = [1, 5, 9, 8, 19];
/// And in a namespace of ours `RTNLGRP_NEIGH`, `_IPV4_ROUTE`, `_IPV6_ROUTE`, `_TC`: on the host,
/// others change these often. The last two, `_IPV4_NETCONF` and `_IPV6_NETCONF`, tell of some
/// values below /proc/sys: forwarding, rp_filter, proxy_arp.
const OUR_GROUPS: [u32; 11] = [1, 5, 9, 8, 19, 3, 7, 11, 4, 24, 25];

/// Finds the network namespace that a task's processes are in, if it has any.
pub(crate) type Inhabited = Arc<dyn Fn(SandboxId) -> Option<File> + Send + Sync>;

/// The kernel, seen from one host. Made and used on one thread with a tokio runtime.
pub(crate) struct Kernel {
    channels: BTreeMap<Place, Channel>,
    notices: Notices,
    /// The namespace that notices of all others are heard in.
    ear: Channel,
    inhabited: Inhabited,
    listing: Listing,
    /// The namespaces that the channels are of.
    followed: Arc<Present>,
    /// What was read last.
    observed: Arc<Observed>,
    /// The namespaces to be read: in doubt, or never read.
    stale: BTreeSet<Place>,
    /// What was asked for, and which namespaces there were, when none lacked its name last.
    named: Option<(Arc<Desired>, Arc<Present>)>,
    trees: Trees,
    turns: Turns,
    /// Dumps that were not in turn.
    dumps: u64,
    /// The containers of others that were alive, and when they were looked for.
    alive: (Option<Instant>, BTreeMap<SandboxId, ContainerConfig>),
    /// The links of the host's own namespace.
    host: wire::Names,
    /// Whom the ground was read for last; none after any change of it.
    asked: Option<Arc<Asked>>,
    /// What the host has that is not ours, as it was read last.
    ground: Arc<Ground>,
}

/// Whose turn it is to be read without a notice.
#[derive(Default)]
struct Turns {
    /// The host's, which has what others change often.
    host: Turn,
    others: Turn,
    /// The last namespace that was read in its turn.
    last: Option<Place>,
    /// Those whose turn it is now, until they are read.
    now: BTreeSet<Place>,
    /// What the host's turn has taken so far.
    spent: Duration,
}

/// An operation that the kernel refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The operation.
    pub op: Op,
    /// Why, and what to do next.
    pub why: Failure,
}

impl Kernel {
    /// Opens netlink in the calling thread's namespace, which is the host's from now on.
    pub(crate) fn open(inhabited: Inhabited) -> Result<Self, KernelError> {
        let open = || {
            let host = Channel::open(Place::Host, namespace::current()?, 0)?;
            let ear = Channel::open(Place::Host, namespace::unnamed()?, 0)?;
            let ours = namespace::within_file(&ear.namespace, || listen(&OUR_GROUPS))??;
            let notices = Notices::of(listen(&HOST_GROUPS)?, ours)?;
            Ok(Self {
                channels: BTreeMap::from([(Place::Host, host)]),
                notices,
                ear,
                inhabited,
                listing: Listing::default(),
                followed: Arc::default(),
                observed: Arc::default(),
                stale: BTreeSet::from([Place::Host]),
                named: None,
                trees: Trees::default(),
                turns: Turns::default(),
                dumps: 0,
                alive: (None, BTreeMap::new()),
                host: BTreeMap::new(),
                asked: None,
                ground: Arc::default(),
            })
        };
        open().map_err(|error| KernelError::Open(Place::Host, error))
    }

    /// The containers of others whose namespaces are there. One that was there a moment ago is
    /// believed to be.
    pub(crate) fn alive(&mut self, config: &NodeConfig) -> BTreeSet<SandboxId> {
        let (looked, before) = &self.alive;
        let is_recent = looked.is_some_and(|at| at.elapsed() < ALIVE);
        let mut alive = BTreeMap::new();
        for (&sandbox, container) in &config.containers {
            if is_recent && before.get(&sandbox) == Some(container)
                || (self.inhabited)(sandbox).is_some()
            {
                alive.insert(sandbox, container.clone());
            }
        }
        let found = alive.keys().copied().collect();
        let looked = if is_recent {
            *looked
        } else {
            Some(Instant::now())
        };
        self.alive = (looked, alive);
        found
    }

    /// Which kinds of devices of LANs this kernel has. Loads their modules where it has them as
    /// such.
    pub(crate) fn kinds(&mut self) -> BTreeSet<Capability> {
        const KINDS: [(Capability, InfoKind); 3] = [
            (Capability::Vlan, InfoKind::Vlan),
            (Capability::Macvlan, InfoKind::MacVlan),
            (Capability::Ipvlan, InfoKind::IpVlan),
        ];
        let Some(host) = self.channels.get_mut(&Place::Host) else {
            return BTreeSet::new();
        };
        let asked = KINDS.map(|(_, kind)| (wire::ask_for_kind(kind), NLM_F_CREATE | NLM_F_EXCL));
        let lacks = |answer: &io::Result<()>| {
            let code = answer.as_ref().err().and_then(io::Error::raw_os_error);
            code == Some(Errno::EOPNOTSUPP as i32)
        };
        let answers = host.ask(asked.to_vec()).into_iter().zip(KINDS);
        answers
            .filter(|(answer, _)| !lacks(answer))
            .map(|(_, (capability, _))| capability)
            .collect()
    }

    /// The namespaces of ours that there are.
    pub(crate) fn present(&mut self) -> Result<Arc<Present>, KernelError> {
        self.listing.present().map_err(KernelError::List)
    }

    /// Notes what has changed.
    fn hear(&mut self) {
        match self.notices.take() {
            News::From(places) => places
                .into_iter()
                .for_each(|(place, doubt)| self.doubt(place, doubt)),
            News::Lost => self.doubt_all(),
        }
    }

    /// The next `observe` reads every namespace, with or without a notice.
    pub(crate) fn doubt_all(&mut self) {
        self.listing.doubt();
        let all: Vec<Place> = self.channels.keys().copied().collect();
        all.into_iter()
            .for_each(|place| self.doubt(place, Doubt::whole()));
    }

    /// The next `observe` reads this again.
    pub(crate) fn doubt(&mut self, place: Place, doubt: Doubt) {
        let Some(channel) = self.channels.get_mut(&place) else {
            return;
        };
        if place == Place::Host && (doubt.whole || !doubt.links.is_empty()) {
            self.asked = None;
        }
        channel.kept.clear();
        channel.doubt.add(doubt);
        self.stale.insert(place);
    }

    /// How many dumps have been taken, those of the turn left out.
    pub(crate) fn dumps(&self) -> u64 {
        self.dumps
    }

    /// Completes when something has changed since the last `observe`. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        poll_fn(|context| self.notices.poll(context)).await;
    }

    /// Opens sockets in a namespace of ours.
    fn follow(&mut self, namespace: Namespace) -> io::Result<()> {
        let place = Place::Inside(namespace);
        if let Entry::Vacant(vacant) = self.channels.entry(place) {
            let (file, identity) = namespace::open(namespace)?;
            vacant.insert(Channel::open(place, file, identity)?);
            self.stale.insert(place);
        }
        Ok(())
    }

    /// Closes them. An open socket keeps a namespace alive, and with it the VNI of its tunnel.
    fn leave(&mut self, place: Place) {
        self.channels.remove(&place);
        self.stale.remove(&place);
        if self.observed.spaces.contains_key(&place) {
            Arc::make_mut(&mut self.observed).spaces.remove(&place);
        }
    }
}
