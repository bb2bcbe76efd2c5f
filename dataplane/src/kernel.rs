//! The kernel by rtnetlink: reads our objects in all namespaces, and changes them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs::File,
    future::poll_fn,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use model::{
    Capability, ContainerConfig, Failure, NodeConfig, SandboxId,
    names::{self, LinkName, Namespace},
};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    link::{InfoKind, LinkAttribute},
};
use nix::errno::Errno;
use tracing::{debug, warn};

use super::{
    AGAIN,
    channel::{BATCH, Channel, KernelError, listen, missing},
    desired::{Desired, Ground, HostLink},
    doubt::{Doubt, LinkRef},
    kernel_said,
    listing::{Listing, Present},
    namespace,
    notices::{News, Notices},
    plan::{Change, Observed, Op},
    policy::PolicyChange,
    read::Unread,
    shape,
    state::{Link, ObservedKind, ObservedLink, Place, Space, Sysctl},
    sysctl,
    turn::Turn,
    wire,
};

/// Namespaces whose values below /proc/sys are read in one instance of /proc.
const NAMESPACES_PER_TREE: usize = 32;
/// Namespaces that are read in one turn, without a notice.
const TURN: usize = 10;
/// Time after which a container's namespace that was there is looked for again.
const ALIVE: Duration = Duration::from_millis(900);
/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV6_IFADDR`, `_IPV4_RULE`, `_IPV6_RULE` of linux/rtnetlink.h.
const HOST_GROUPS: [u32; 5] = [1, 5, 9, 8, 19];
/// And in a namespace of ours `RTNLGRP_NEIGH`, `_IPV4_ROUTE`, `_IPV6_ROUTE`, `_TC`: on the host,
/// others change these often. The last two, `_IPV4_NETCONF` and `_IPV6_NETCONF`, tell of some
/// values below /proc/sys: forwarding, rp_filter, proxy_arp.
const OUR_GROUPS: [u32; 11] = [1, 5, 9, 8, 19, 3, 7, 11, 4, 24, 25];

/// What a namespace held when it was read.
type Seen = Arc<Space<ObservedLink>>;

/// Finds the network namespace that a task's processes are in, if it has any.
pub type Inhabited = Arc<dyn Fn(SandboxId) -> Option<File> + Send + Sync>;

/// The kernel, seen from one host. Made and used on one thread with a tokio runtime.
pub struct Kernel {
    channels: BTreeMap<Place, Channel>,
    notices: Notices,
    /// The namespace that notices of all others are heard in.
    ear: Channel,
    inhabited: Inhabited,
    listing: Listing,
    /// The namespaces that the channels are of.
    followed: Arc<Present>,
    turns: Turns,
    /// Dumps that were not in turn.
    dumps: u64,
    /// The containers of others that were alive, and when they were looked for.
    alive: (Option<Instant>, BTreeMap<SandboxId, ContainerConfig>),
    /// The links of the host's own namespace.
    host: wire::Names,
    /// What the host has that is not ours, as it was read last, and for whom; none after any change
    /// of it.
    ground: Option<(Asked, Ground)>,
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
}

/// The VTEP of this host, and those of others that it talks to.
type Asked = (Option<IpAddr>, BTreeSet<IpAddr>);

/// An operation that the kernel refused.
#[derive(Debug)]
pub struct Refused {
    /// The operation.
    pub op: Op,
    /// Why, and what to do next.
    pub why: Failure,
}

impl Kernel {
    /// Opens netlink in the calling thread's namespace, which is the host's from now on.
    pub fn open(inhabited: Inhabited) -> Result<Self, KernelError> {
        let open = || {
            let host = Channel::open(Place::Host, namespace::current()?, 0)?;
            let ear = Channel::open(Place::Host, namespace::unnamed()?, 0)?;
            let ours = namespace::within_file(&ear.namespace, || listen(&OUR_GROUPS))??;
            let notices = Notices::of(listen(&HOST_GROUPS)?, ours)?;
            let channels = BTreeMap::from([(Place::Host, host)]);
            Ok(Self {
                channels,
                notices,
                ear,
                inhabited,
                listing: Listing::default(),
                followed: Arc::default(),
                turns: Turns::default(),
                dumps: 0,
                alive: (None, BTreeMap::new()),
                host: BTreeMap::new(),
                ground: None,
            })
        };
        open().map_err(|error| KernelError::Open(Place::Host, error))
    }

    /// What the host has that is not ours, and the way from its VTEP to others.
    pub fn ground(
        &mut self,
        vtep: Option<IpAddr>,
        peers: &BTreeSet<IpAddr>,
    ) -> Result<Ground, KernelError> {
        self.hear();
        self.take_turn();
        let asked = (vtep, peers.clone());
        match self.ground.take() {
            Some((last, ground)) if last == asked => self.ground = Some((last, ground)),
            _ => self.ground = Some((asked, self.read_ground(vtep, peers)?)),
        }
        Ok(self
            .ground
            .as_ref()
            .map(|(_, ground)| ground.clone())
            .unwrap_or_default())
    }

    fn read_ground(
        &mut self,
        vtep: Option<IpAddr>,
        peers: &BTreeSet<IpAddr>,
    ) -> Result<Ground, KernelError> {
        let mut ground = Ground::default();
        let Some(host) = self.channels.get_mut(&Place::Host) else {
            return Ok(ground);
        };
        let dumps = host.dumps;
        let links = host.dump("links", wire::get_links())?;
        let links = links.iter().filter_map(|message| {
            if let Message::NewLink(link) = message {
                Some(link)
            } else {
                None
            }
        });
        let numbers = links.clone().filter_map(wire::link_name).collect();
        let renumbered = std::mem::replace(&mut self.host, numbers) != self.host;
        for message in links {
            let Some((_, name)) = wire::link_name(message) else {
                continue;
            };
            // What is ours alone carries nothing else, and comes and goes with endpoints.
            if names::parse_handed_link(name.as_str()).is_some() {
                continue;
            }
            let found = wire::link(message, Place::Host, &self.host);
            let stacked = if let ObservedKind::Stacked(stacked) = found.kind {
                Some(stacked)
            } else {
                None
            };
            ground.links.insert(
                name,
                HostLink {
                    mac: found.mac,
                    mtu: found.mtu,
                    stacked,
                },
            );
        }
        for message in host.dump("addresses", wire::get_addresses(None))? {
            let Message::NewAddress(message) = message else {
                continue;
            };
            let Some((index, address)) = wire::address(&message) else {
                continue;
            };
            let Some(name) = self.host.get(&index) else {
                continue;
            };
            if vtep == Some(address) {
                ground.underlay.link = ground.links.get(name).map(|link| link.mtu);
            }
            if wire::is_global(address) && !names::is_host_link(name.as_str()) {
                ground.addresses.insert((name.clone(), address));
                ground
                    .on_link
                    .extend(wire::on_link(address, wire::address_form(&message)));
            }
        }
        if let Some(own) = vtep {
            let mtu =
                |(index, name): (&u32, &LinkName)| Some((*index, ground.links.get(name)?.mtu));
            ground.underlay.paths =
                host.paths(own, peers, &self.host.iter().filter_map(mtu).collect())?;
        }
        if !self.turns.now.contains(&Place::Host) {
            self.dumps += host.dumps - dumps;
        }
        // Devices of sandboxes name their parents on the host by number.
        self.channels
            .values_mut()
            .filter(|channel| renumbered && channel.has_parents())
            .for_each(|channel| channel.doubt.whole = true);
        Ok(ground)
    }

    /// The containers of others whose namespaces are there. One that was there a moment ago is
    /// believed to be.
    pub fn alive(&mut self, config: &NodeConfig) -> BTreeSet<SandboxId> {
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
    pub fn kinds(&mut self) -> BTreeSet<Capability> {
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
    pub fn present(&mut self) -> Result<Arc<Present>, KernelError> {
        self.listing.present().map_err(KernelError::List)
    }

    /// What there is of ours, with the values below /proc/sys that `desired` speaks of. Only what
    /// notices, changes of ours or the turn name is read.
    pub fn observe(&mut self, desired: &Desired) -> Result<Observed, KernelError> {
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
        for (&place, channel) in &mut self.channels {
            if channel.doubt.is_none() && channel.seen.is_some() {
                continue;
            }
            let asked = desired.spaces.get(&place);
            channel.has_shapes |= asked.is_some_and(|space| !space.shapes.is_empty());
            channel.has_policies |= asked.is_some_and(|space| !space.policies.is_empty());
            let (before, dumps) = (channel.seen.clone(), channel.dumps);
            let unread = channel.observe(&self.host)?;
            if !self.turns.now.contains(&place) {
                self.dumps += channel.dumps - dumps;
            }
            if place == Place::Host {
                host_cost = start.elapsed();
            }
            read.insert(place, (before, unread));
        }
        for place in read.keys().filter(|place| place.is_foreign()) {
            let seen = self
                .channels
                .get_mut(place)
                .and_then(|channel| channel.seen.as_mut());
            let asked = desired.spaces.get(place).map(Arc::as_ref);
            seen.into_iter()
                .for_each(|seen| only_ours(Arc::make_mut(seen), asked));
        }
        self.read_sysctls(desired, &read)?;
        for (place, (before, _)) in read {
            let channel = self
                .channels
                .get_mut(&place)
                .filter(|channel| channel.seen == before);
            channel
                .into_iter()
                .for_each(|channel| channel.seen.clone_from(&before));
        }
        self.end_turn(host_cost, start.elapsed());
        let seen = self
            .channels
            .iter()
            .filter_map(|(&place, channel)| Some((place, channel.seen.clone()?)));
        Ok(Observed {
            spaces: seen.collect(),
        })
    }

    /// Listens to the namespaces that are to be read for the first time.
    fn listen_to_new(&mut self) -> Result<(), KernelError> {
        for (&place, channel) in self
            .channels
            .iter()
            .filter(|(_, channel)| channel.seen.is_none())
        {
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
    pub fn doubt_all(&mut self) {
        self.ground = None;
        self.listing.doubt();
        self.channels
            .values_mut()
            .for_each(|channel| channel.doubt.whole = true);
    }

    /// The next `observe` reads this again.
    pub fn doubt(&mut self, place: Place, doubt: Doubt) {
        if place == Place::Host && (doubt.whole || !doubt.links.is_empty()) {
            self.ground = None;
        }
        if let Some(channel) = self.channels.get_mut(&place) {
            channel.doubt.add(doubt);
        }
    }

    /// Marks some namespaces to be read even without a notice, because some changes cause none.
    fn take_turn(&mut self) {
        let Turns {
            host, others, last, ..
        } = &mut self.turns;
        let mut turn = BTreeSet::new();
        if others.is_due() {
            let inside = || self.channels.keys().filter(|place| **place != Place::Host);
            let later = inside().filter(|place| Some(**place) > *last);
            let chosen: Vec<Place> = later.chain(inside()).copied().take(TURN).collect();
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
        if now.contains(&Place::Host) {
            self.turns.host.took(host);
        }
        if now.iter().any(|place| *place != Place::Host) {
            self.turns.others.took(all.saturating_sub(host));
        }
    }

    /// How many dumps have been taken, those of the turn left out.
    pub fn dumps(&self) -> u64 {
        self.dumps
    }

    /// Executes operations in order; goes on after failures and returns them.
    pub fn apply(&mut self, ops: &[Op]) -> Vec<Refused> {
        let alike = |a: &Op, b: &Op| a.place == b.place && a.change.stage() == b.change.stage();
        let apply = |ops: &[Op]| {
            // Before there are too many.
            self.hear();
            self.apply_alike(ops)
        };
        ops.chunk_by(alike).flat_map(apply).collect()
    }

    /// Completes when something has changed since the last `observe`. Cancel-safe.
    pub async fn changed(&mut self) {
        poll_fn(|context| self.notices.poll(context)).await;
    }

    /// Restores the names of namespaces that lost only their names; programs inside do not notice.
    /// Returns whether there were any.
    fn restore_names(&self, desired: &Desired, present: &Present) -> bool {
        let mut restored = false;
        for &place in desired.spaces.keys() {
            let Place::Inside(namespace) = place else {
                continue;
            };
            if present.contains_key(&namespace) {
                continue;
            }
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
        restored
    }

    /// Closes the sockets of namespaces that are gone and opens some in new ones. An open socket
    /// keeps a namespace alive, and with it the VNI of its tunnel.
    fn follow_namespaces(&mut self, present: &Arc<Present>) -> Result<(), KernelError> {
        if Arc::ptr_eq(&self.followed, present) {
            return Ok(());
        }
        self.channels.retain(|place, channel| match place {
            Place::Host => true,
            Place::Inside(namespace) => present.get(namespace) == Some(&channel.identity),
        });
        self.notices
            .keep(|place| self.channels.contains_key(&place));
        for &namespace in present.keys() {
            self.follow(namespace)
                .map_err(|error| KernelError::Open(Place::Inside(namespace), error))?;
        }
        self.followed = present.clone();
        Ok(())
    }

    fn follow(&mut self, namespace: Namespace) -> io::Result<()> {
        let place = Place::Inside(namespace);
        if let Entry::Vacant(vacant) = self.channels.entry(place) {
            let (file, identity) = namespace::open(namespace)?;
            vacant.insert(Channel::open(place, file, identity)?);
        }
        Ok(())
    }

    fn read_sysctls(
        &mut self,
        desired: &Desired,
        read: &BTreeMap<Place, (Option<Seen>, Unread)>,
    ) -> Result<(), KernelError> {
        let asked: Vec<(Place, &File, Vec<&Sysctl>)> = (read.iter())
            .filter_map(|(place, (_, unread))| {
                let keys = desired.spaces.get(place)?.sysctls.keys();
                let keys: Vec<&Sysctl> = keys.filter(|key| unread.holds(key)).collect();
                let namespace = &self.channels.get(place)?.namespace;
                (!keys.is_empty()).then_some((*place, namespace, keys))
            })
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        let mut last = Place::Host;
        let found = namespace::on_own_thread(|| {
            let mut found = Vec::new();
            for asked in asked.chunks(NAMESPACES_PER_TREE) {
                let tree = sysctl::Tree::fresh()?;
                for (place, file, keys) in asked {
                    last = *place;
                    namespace::enter(file)?;
                    let values = keys
                        .iter()
                        .map(|key| ((*key).clone(), tree.read(&key.path)));
                    found.push((*place, values.collect::<Vec<_>>()));
                }
            }
            Ok(found)
        });
        for (place, values) in found.map_err(|error| KernelError::Sysctl(last, error))? {
            let seen = self
                .channels
                .get_mut(&place)
                .and_then(|channel| channel.seen.as_mut());
            let Some(seen) = seen.map(Arc::make_mut) else {
                continue;
            };
            for (key, value) in values {
                match value {
                    Some(value) => drop(seen.sysctls.insert(key, value)),
                    None => drop(seen.sysctls.remove(&key)),
                }
            }
        }
        Ok(())
    }

    /// Operations of one stage in one namespace.
    fn apply_alike(&mut self, ops: &[Op]) -> Vec<Refused> {
        let Some(Op { place, change }) = ops.first() else {
            return Vec::new();
        };
        let result = match (place, change) {
            (Place::Inside(namespace), Change::CreateNamespace) => {
                let made = namespace::create(&namespace.name());
                let followed = made.and_then(|()| self.follow(*namespace));
                // No earlier netd has left anything there.
                if let Some(channel) = self.channels.get_mut(place) {
                    (channel.has_policies, channel.has_shapes) = (false, false);
                }
                followed
            }
            (Place::Inside(namespace), Change::DeleteNamespace) => {
                self.channels.remove(place);
                namespace::remove(&namespace.name())
            }
            (
                Place::Inside(Namespace::Sandbox(sandbox) | Namespace::Container(sandbox)),
                Change::AddStacked(..),
            ) => {
                return ops
                    .iter()
                    .filter_map(|op| Some(failure(op, &self.bear(*sandbox, op).err()?)))
                    .collect();
            }
            (_, Change::SetSysctl(..)) => return self.write_sysctls(*place, ops),
            (_, Change::DeleteLink(_)) if ops.len() > 1 => {
                self.delete_together(*place, ops);
                // It finds most of them gone.
                return self.send(*place, ops);
            }
            _ => return self.send(*place, ops),
        };
        result
            .err()
            .map(|error| failure(&ops[0], &error))
            .into_iter()
            .collect()
    }

    /// Deletes links as a group: the kernel waits for an RCU grace period once per group instead of
    /// once per link.
    fn delete_together(&mut self, place: Place, ops: &[Op]) {
        let Some(channel) = self.channels.get_mut(&place) else {
            return;
        };
        let indices: Vec<u32> = ops
            .iter()
            .filter_map(|op| channel.index(op.change.link()?).ok())
            .collect();
        let join = |&index: &u32| (wire::set_link(index, LinkAttribute::Group(wire::GOING)), 0);
        let requests = indices
            .iter()
            .map(join)
            .chain([(wire::delete_group(wire::GOING), 0)]);
        let requests: Vec<(Message, u16)> = requests.collect();
        // What is refused here is tried one by one.
        requests
            .chunks(BATCH)
            .for_each(|batch| drop(channel.ask(batch.to_vec())));
    }

    /// Makes a device on a link of the host, inside of a sandbox.
    fn bear(&mut self, task: SandboxId, op: &Op) -> io::Result<()> {
        let Change::AddStacked(name, link, stacked) = &op.change else {
            return Ok(());
        };
        let newborn = names::newborn_link(task, name);
        let parent = self.index(Place::Host, &stacked.parent)?;
        let request = wire::add_stacked(
            &newborn,
            link,
            stacked.layer,
            parent,
            Some(self.raw(op.place)?),
        );
        self.order(Place::Host, (request, NLM_F_CREATE | NLM_F_EXCL))?;
        let index = self.index(op.place, &newborn)?;
        self.order(
            op.place,
            (
                wire::set_link(index, LinkAttribute::IfName(name.to_string())),
                0,
            ),
        )
    }

    fn order(&mut self, place: Place, request: (Message, u16)) -> io::Result<()> {
        let channel = self
            .channels
            .get_mut(&place)
            .ok_or_else(|| missing(format!("{place} is missing")))?;
        channel.ask(vec![request]).into_iter().collect()
    }

    fn write_sysctls(&mut self, place: Place, ops: &[Op]) -> Vec<Refused> {
        self.doubt_changed(ops);
        let Some(channel) = self.channels.get(&place) else {
            return absent(ops);
        };
        let written = namespace::within_file(&channel.namespace, || {
            let tree = sysctl::Tree::fresh()?;
            let write = |op: &Op| {
                write_sysctl(&tree, op)
                    .err()
                    .map(|error| failure(op, &error))
            };
            Ok(ops.iter().filter_map(write).collect())
        });
        written
            .flatten()
            .unwrap_or_else(|error| ops.iter().map(|op| failure(op, &error)).collect())
    }

    fn send(&mut self, place: Place, ops: &[Op]) -> Vec<Refused> {
        if !self.channels.contains_key(&place) {
            return absent(ops);
        }
        self.doubt_changed(ops);
        let mut failures = Vec::new();
        let mut requests = Vec::new();
        for op in ops {
            match self.request(op) {
                Ok(request) => requests.push((op, request)),
                Err(error) => failures.push(failure(op, &error)),
            }
        }
        let through = if matches!(ops[0].change, Change::AddVxlan(..)) {
            Place::Host
        } else {
            place
        };
        let Some(channel) = self.channels.get_mut(&through) else {
            return absent(ops);
        };
        for batch in requests.chunks(BATCH) {
            let messages = batch.iter().map(|(_, request)| request.clone()).collect();
            failures.extend(channel.ask(messages).into_iter().zip(batch).filter_map(
                |(answer, (op, _))| {
                    let error = answer
                        .err()
                        .filter(|error| !is_done_already(&op.change, error))?;
                    Some(failure(op, &error))
                },
            ));
        }
        failures
    }

    /// What these leave to be read, whether notices tell of it or not.
    fn doubt_changed(&mut self, ops: &[Op]) {
        for op in ops {
            if let Change::AddPair(pair) = &op.change {
                let far = Doubt::link(LinkRef::Name(pair.far.clone()));
                self.doubt(pair.place, far);
            }
            self.doubt(op.place, Doubt::of_change(&op.change));
        }
    }

    fn request(&mut self, op: &Op) -> io::Result<(Message, u16)> {
        const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;
        const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;
        let index = match &op.change {
            Change::AddVxlan(..)
            | Change::AddStacked(..)
            | Change::AddPair(..)
            | Change::DeleteLink(_) => None,
            change => change
                .link()
                .map(|link| self.index(op.place, link))
                .transpose()?,
        };
        let at = index.unwrap_or(0);
        Ok(match &op.change {
            Change::DeleteRoute(key, route) => (wire::delete_route(key, route, index), 0),
            // A route that the host had before is never replaced.
            Change::SetRoute(key, route) if op.place == Place::Host => {
                (wire::set_route(key, route, index), ADD)
            }
            Change::SetRoute(key, route) => (wire::set_route(key, route, index), SET),
            Change::DeleteFdb(key, vtep) => (
                Message::DelNeighbour(wire::fdb_message(at, key.mac, *vtep)),
                0,
            ),
            Change::SetFdb(key, vtep) => (
                Message::NewNeighbour(wire::fdb_message(at, key.mac, *vtep)),
                SET,
            ),
            Change::DeleteNeighbour(key) => (
                Message::DelNeighbour(wire::neighbour_message(at, key.address, None)),
                0,
            ),
            Change::SetNeighbour(key, mac) => (
                Message::NewNeighbour(wire::neighbour_message(at, key.address, Some(*mac))),
                SET,
            ),
            Change::DeleteAddress(key, form) => (
                Message::DelAddress(wire::address_message(at, key, *form)),
                0,
            ),
            Change::AddAddress(key, form) => (
                Message::NewAddress(wire::address_message(at, key, *form)),
                SET,
            ),
            Change::DeleteLink(link) => (wire::delete_link(link), 0),
            Change::AddVxlan(name, link, vxlan) => {
                (wire::add_vxlan(name, link, vxlan, self.raw(op.place)?), ADD)
            }
            Change::AddStacked(name, link, stacked) => {
                let parent = self.index(Place::Host, &stacked.parent)?;
                (
                    wire::add_stacked(name, link, stacked.layer, parent, None),
                    ADD,
                )
            }
            Change::AddPair(pair) => (wire::add_pair(pair, self.raw(pair.place)?), ADD),
            Change::SetMtu(_, mtu) => (wire::set_link(at, LinkAttribute::Mtu(*mtu)), 0),
            Change::SetMac(_, mac) => (
                wire::set_link(at, LinkAttribute::Address(mac.0.to_vec())),
                0,
            ),
            Change::SetUp(_) => (wire::set_up(at), 0),
            Change::SetShape(_, shape) => (shape::set(at, *shape), SET),
            Change::DeleteShape(_) => (shape::delete(at), 0),
            Change::Policy(change @ PolicyChange::RepeatLocal(_)) => {
                (change.message(), NLM_F_CREATE)
            }
            Change::Policy(change) => (
                change.message(),
                if matches!(change, PolicyChange::Add(_)) {
                    ADD
                } else {
                    0
                },
            ),
            Change::DeleteNamespace | Change::CreateNamespace | Change::SetSysctl(..) => {
                return Err(io::Error::from(io::ErrorKind::Unsupported));
            }
        })
    }

    fn raw(&self, place: Place) -> io::Result<RawFd> {
        let channel = self
            .channels
            .get(&place)
            .ok_or_else(|| missing(format!("{place} is missing")))?;
        Ok(channel.namespace.as_raw_fd())
    }

    fn index(&mut self, place: Place, link: &LinkName) -> io::Result<u32> {
        let channel = self
            .channels
            .get_mut(&place)
            .ok_or_else(|| missing(format!("{place} is missing")))?;
        channel.index(link)
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

fn write_sysctl(tree: &sysctl::Tree, op: &Op) -> io::Result<()> {
    let Change::SetSysctl(key, value) = &op.change else {
        return Ok(());
    };
    if op.place == Place::Host && key.path == sysctl::IPV6_FORWARDING {
        sysctl::keep_router_advertisements()?;
    }
    tree.write(&key.path, value)
}

/// Deleting an absent object is a success.
fn is_done_already(change: &Change, error: &io::Error) -> bool {
    let absent = [
        Errno::ENOENT,
        Errno::ESRCH,
        Errno::ENODEV,
        Errno::EADDRNOTAVAIL,
    ];
    let deletes = change.stage() < Change::CreateNamespace.stage();
    deletes
        && error
            .raw_os_error()
            .is_some_and(|code| absent.contains(&Errno::from_raw(code)))
}

fn absent(ops: &[Op]) -> Vec<Refused> {
    ops.iter()
        .map(|op| failure(op, &missing(format!("{} is missing", op.place))))
        .collect()
}

fn failure(op: &Op, error: &io::Error) -> Refused {
    let next = match (error.raw_os_error().map(Errno::from_raw), &op.change) {
        (Some(Errno::EEXIST), Change::AddVxlan(..)) => {
            "another tunnel of this host has this VNI and port, find it by `ip -d link show type vxlan`"
        }
        (Some(Errno::EEXIST), Change::SetRoute(..)) => {
            "this host has another route there already, `ip route` and `ip -6 route` show it: take it away, or \
             remove the network and make it with another subnet"
        }
        (Some(Errno::EBUSY | Errno::EINVAL), Change::AddStacked(..)) => {
            "its parent cannot carry it, because a bridge, a bond or devices of another kind or mode use it: \
             use another parent, such as a VLAN of it"
        }
        (Some(Errno::ENETDOWN), _) => "take its parent up: `ip link set PARENT up`",
        (Some(Errno::EADDRINUSE), Change::SetUp(_)) => {
            "another program has the UDP port of the tunnels, `ss -lunp` names it: stop it, or make the cluster \
             with another --data-path-port"
        }
        (Some(Errno::EPERM | Errno::EACCES), _) => "run netd with CAP_NET_ADMIN and CAP_SYS_ADMIN",
        (Some(Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT), _) => {
            "this kernel lacks the feature: IPv6 and the kind of device must be built in or loadable"
        }
        _ => AGAIN,
    };
    Refused {
        op: op.clone(),
        why: kernel_said(error, next),
    }
}
