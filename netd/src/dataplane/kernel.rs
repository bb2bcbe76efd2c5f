//! The kernel by netlink: what it holds of ours, and how it is changed. The one place of the data plane that opens
//! netlink sockets; those for requests, one in each namespace, are kept open between passes.

use std::{
    cell::RefCell,
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
    Capability, NodeConfig, SandboxId,
    names::{self, LinkName, NAMESPACE_DIRECTORY, Namespace},
};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    link::{InfoKind, LinkAttribute},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use tracing::{debug, warn};

use super::{
    desired::{Desired, Ground, HostLink},
    namespace::{self, Identity},
    notices::{News, Notices},
    plan::{Change, Observed, Op},
    policy::{PolicyChange, Tables},
    shape,
    state::{AddressKey, Link, ObservedKind, ObservedLink, Place, Route, RouteKey, Space, Sysctl},
    sysctl, wire,
};

/// Messages per send: their answers must fit the socket's receive buffer.
const BATCH: usize = 64;
/// Namespaces whose values below /proc/sys are read in one instance of /proc.
const NAMESPACES_PER_TREE: usize = 32;
/// Larger than any datagram of a dump (32 KiB in net/netlink/af_netlink.c).
const DATAGRAM: usize = 64 * 1024;
/// Namespaces that are read in their turn, though nothing was heard from them, and how often. Hosts have fewer as a rule; a
/// host with thousands would do nothing else.
const TURN: usize = 50;
const TURN_TIME: Duration = Duration::from_millis(900);
/// How often a dump that was changed under way is taken before the pass gives up.
const DUMPS: usize = 8;
/// `NLM_F_DUMP_INTR` of linux/netlink.h.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV6_IFADDR`, `_IPV4_RULE`, `_IPV6_RULE` of linux/rtnetlink.h.
const HOST_GROUPS: [u32; 5] = [1, 5, 9, 8, 19];
/// And in a namespace of ours `RTNLGRP_NEIGH`, `_IPV4_ROUTE`, `_IPV6_ROUTE`: on the host, others change these often. The
/// last two, `_IPV4_NETCONF` and `_IPV6_NETCONF`, tell of some values below /proc/sys: forwarding, rp_filter, proxy_arp.
const OUR_GROUPS: [u32; 10] = [1, 5, 9, 8, 19, 3, 7, 11, 24, 25];

/// A kernel that cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The namespaces cannot be listed.
    #[error("cannot list the network namespaces in {NAMESPACE_DIRECTORY}: {0}")]
    List(#[source] io::Error),
    /// No socket in a namespace.
    #[error("cannot open netlink in {0}: {1}; next: netd needs CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    Open(Place, #[source] io::Error),
    /// A dump failed.
    #[error("cannot read {1} of {0}: {2}")]
    Dump(Place, &'static str, #[source] io::Error),
    /// The values below /proc/sys cannot be reached.
    #[error("cannot read /proc/sys of {0}: {1}")]
    Sysctl(Place, #[source] io::Error),
}

/// Finds the network namespace that a task's processes are in, if it has any.
pub type Inhabited = Arc<dyn Fn(SandboxId) -> Option<File> + Send + Sync>;

/// The kernel, seen from one host. Made and used on one thread with a tokio runtime.
pub struct Kernel {
    channels: BTreeMap<Place, Channel>,
    notices: Notices,
    /// The namespace that notices of all others are heard in.
    ear: Channel,
    inhabited: Inhabited,
    /// The last namespace that was read in its turn.
    last: Option<Place>,
    /// When.
    turned: Option<Instant>,
    /// The links of the host's own namespace.
    host: wire::Names,
    /// What the host has that is not ours, as it was read last, and for whom; none after any change of it.
    ground: Option<(Asked, Ground)>,
}

/// The VTEP of this host, and those of others that it talks to.
type Asked = (Option<IpAddr>, BTreeSet<IpAddr>);

/// An operation that the kernel refused.
#[derive(Debug)]
pub struct Refused {
    /// The operation.
    pub op: Op,
    /// Why, and what to do next.
    pub reason: String,
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
            let (last, turned, host, ground) = (None, None, BTreeMap::new(), None);
            Ok(Self { channels, notices, ear, inhabited, last, turned, host, ground })
        };
        open().map_err(|error| KernelError::Open(Place::Host, error))
    }

    /// What the host has that is not ours, and the way from its VTEP to others.
    pub fn ground(&mut self, vtep: Option<IpAddr>, peers: &BTreeSet<IpAddr>) -> Result<Ground, KernelError> {
        self.hear();
        self.take_turn();
        let asked = (vtep, peers.clone());
        match self.ground.take() {
            Some((last, ground)) if last == asked => self.ground = Some((last, ground)),
            _ => self.ground = Some((asked, self.read_ground(vtep, peers)?)),
        }
        Ok(self.ground.as_ref().map(|(_, ground)| ground.clone()).unwrap_or_default())
    }

    fn read_ground(&mut self, vtep: Option<IpAddr>, peers: &BTreeSet<IpAddr>) -> Result<Ground, KernelError> {
        let mut ground = Ground::default();
        let Some(host) = self.channels.get_mut(&Place::Host) else { return Ok(ground) };
        let links = host.dump("links", wire::get_links())?;
        let links =
            links.iter().filter_map(|message| if let Message::NewLink(link) = message { Some(link) } else { None });
        let numbers = links.clone().filter_map(wire::link_name).collect();
        let renumbered = std::mem::replace(&mut self.host, numbers) != self.host;
        for message in links {
            let Some((_, name)) = wire::link_name(message) else { continue };
            let found = wire::link(message, Place::Host, &self.host);
            let stacked = if let ObservedKind::Stacked(stacked) = found.kind { Some(stacked) } else { None };
            ground.links.insert(name, HostLink { mac: found.mac, mtu: found.mtu, stacked });
        }
        for message in host.dump("addresses", wire::get_addresses())? {
            let Message::NewAddress(message) = message else { continue };
            let Some((index, address)) = wire::address(&message) else { continue };
            let Some(name) = self.host.get(&index) else { continue };
            if vtep == Some(address) {
                ground.underlay.link = ground.links.get(name).map(|link| link.mtu);
            }
            if wire::is_global(address) && !names::is_host_link(name.as_str()) {
                ground.addresses.insert((name.clone(), address));
                ground.on_link.extend(wire::on_link(address, wire::address_form(&message)));
            }
        }
        if let Some(own) = vtep {
            let mtu = |(index, name): (&u32, &LinkName)| Some((*index, ground.links.get(name)?.mtu));
            ground.underlay.paths = host.paths(own, peers, &self.host.iter().filter_map(mtu).collect())?;
        }
        // Devices of sandboxes name their parents on the host by number.
        self.channels.values_mut().for_each(|channel| channel.changed |= renumbered && channel.has_parents());
        Ok(ground)
    }

    /// The containers of others whose namespaces are there.
    pub fn alive(&self, config: &NodeConfig) -> BTreeSet<SandboxId> {
        config.containers.keys().copied().filter(|&sandbox| (self.inhabited)(sandbox).is_some()).collect()
    }

    /// Which kinds of devices of LANs this kernel has. Loads their modules where it has them as such.
    pub fn kinds(&mut self) -> BTreeSet<Capability> {
        const KINDS: [(Capability, InfoKind); 3] = [
            (Capability::Vlan, InfoKind::Vlan),
            (Capability::Macvlan, InfoKind::MacVlan),
            (Capability::Ipvlan, InfoKind::IpVlan),
        ];
        let Some(host) = self.channels.get_mut(&Place::Host) else { return BTreeSet::new() };
        let asked = KINDS.map(|(_, kind)| (wire::ask_for_kind(kind), NLM_F_CREATE | NLM_F_EXCL));
        let lacks = |answer: &io::Result<()>| {
            let code = answer.as_ref().err().and_then(io::Error::raw_os_error);
            code == Some(Errno::EOPNOTSUPP as i32)
        };
        let answers = host.ask(asked.to_vec()).into_iter().zip(KINDS);
        answers.filter(|(answer, _)| !lacks(answer)).map(|(_, (capability, _))| capability).collect()
    }

    /// What there is of ours, with the values below /proc/sys that `desired` speaks of.
    pub fn observe(&mut self, desired: &Desired) -> Result<Observed, KernelError> {
        let mut present = namespace::list().map_err(KernelError::List)?;
        if self.restore_names(desired, &present) {
            present = namespace::list().map_err(KernelError::List)?;
        }
        self.follow_namespaces(&present)?;
        self.listen_to_new()?;
        // What happens from here on is reported again.
        self.hear();
        let mut read = BTreeMap::new();
        for (&place, channel) in &mut self.channels {
            if channel.changed || channel.seen.is_none() {
                let before = channel.seen.take();
                channel.has_shapes |= desired.spaces.get(&place).is_some_and(|space| !space.shapes.is_empty());
                channel.has_policies |= desired.spaces.get(&place).is_some_and(|space| !space.policies.is_empty());
                channel.seen = Some(Arc::new(channel.observe(&self.host)?));
                read.insert(place, before);
            }
        }
        for place in read.keys().filter(|place| place.is_foreign()) {
            let seen = self.channels.get_mut(place).and_then(|channel| channel.seen.as_mut());
            seen.into_iter().for_each(|seen| only_ours(Arc::make_mut(seen), desired.spaces.get(place)));
        }
        self.read_sysctls(desired, &read)?;
        for (place, before) in read {
            let channel = self.channels.get_mut(&place).filter(|channel| channel.seen == before);
            channel.into_iter().for_each(|channel| channel.seen.clone_from(&before));
        }
        let seen = self.channels.iter().filter_map(|(&place, channel)| Some((place, channel.seen.clone()?)));
        Ok(Observed { spaces: seen.collect() })
    }

    /// Listens to the namespaces that are to be read for the first time.
    fn listen_to_new(&mut self) -> Result<(), KernelError> {
        for (&place, channel) in self.channels.iter().filter(|(_, channel)| channel.seen.is_none()) {
            let namespace = channel.namespace.as_raw_fd();
            // One that has a number keeps it.
            self.ear.ask(vec![(wire::number_namespace(namespace), 0)]);
            let number = self.ear.number(namespace).map_err(|error| KernelError::Open(place, error))?;
            self.notices.follow(place, number);
        }
        Ok(())
    }

    /// Notes which namespaces have changed.
    fn hear(&mut self) {
        match self.notices.take() {
            News::From(places) => places.iter().for_each(|place| self.doubt_one(*place)),
            News::Lost => self.doubt(),
        }
    }

    /// The next `observe` reads every namespace, whether or not anything was heard from it.
    pub fn doubt(&mut self) {
        self.ground = None;
        self.channels.values_mut().for_each(|channel| channel.changed = true);
    }

    fn doubt_one(&mut self, place: Place) {
        if place == Place::Host {
            self.ground = None;
        }
        if let Some(channel) = self.channels.get_mut(&place) {
            channel.changed = true;
        }
    }

    /// Doubts some even if nothing was heard from them: some changes come without notice. The host is always among them.
    fn take_turn(&mut self) {
        if self.turned.is_some_and(|at| at.elapsed() < TURN_TIME) {
            return;
        }
        self.turned = Some(Instant::now());
        let later = self.channels.keys().filter(|place| Some(**place) > self.last);
        let turn: Vec<Place> = later.chain(self.channels.keys()).copied().take(TURN).collect();
        self.last = turn.last().copied();
        turn.into_iter().chain([Place::Host]).for_each(|place| self.doubt_one(place));
    }

    /// Does what the operations say, one after the other; goes on after failures and returns them.
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

    /// Gives wanted namespaces that have lost nothing but their names these back: what runs inside never notices. Returns
    /// whether there were any.
    fn restore_names(&self, desired: &Desired, present: &BTreeMap<Namespace, Identity>) -> bool {
        let mut restored = false;
        for &place in desired.spaces.keys() {
            let Place::Inside(namespace) = place else { continue };
            if present.contains_key(&namespace) {
                continue;
            }
            let held = self.channels.get(&place).and_then(|channel| channel.namespace.try_clone().ok());
            let lived_in = || match namespace {
                Namespace::Sandbox(sandbox) | Namespace::Container(sandbox) => (self.inhabited)(sandbox),
                Namespace::Network(_) => None,
            };
            let is_unknown = held.is_none();
            let Some(file) = held.or_else(lived_in) else { continue };
            match namespace {
                Namespace::Container(_) if is_unknown => debug!(%place, "a container's namespace gets a name"),
                _ => warn!(%place, "a namespace lost its name and gets it back"),
            }
            // Where that fails, a new one is made.
            namespace::restore(&namespace.name(), &file)
                .unwrap_or_else(|error| warn!(%place, %error, "the name cannot be given back"));
            restored = true;
        }
        restored
    }

    /// Closes the sockets of namespaces that are gone and opens some in new ones. An open socket keeps a namespace
    /// alive, and with it the VNI of its tunnel.
    fn follow_namespaces(&mut self, present: &BTreeMap<Namespace, Identity>) -> Result<(), KernelError> {
        self.channels.retain(|place, channel| match place {
            Place::Host => true,
            Place::Inside(namespace) => present.get(namespace) == Some(&channel.identity),
        });
        self.notices.keep(|place| self.channels.contains_key(&place));
        for &namespace in present.keys() {
            self.follow(namespace).map_err(|error| KernelError::Open(Place::Inside(namespace), error))?;
        }
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

    fn read_sysctls<T>(&mut self, desired: &Desired, read: &BTreeMap<Place, T>) -> Result<(), KernelError> {
        let asked: Vec<(Place, &File, Vec<&Sysctl>)> = (desired.spaces.iter())
            .filter(|(place, _)| read.contains_key(place))
            .filter_map(|(place, space)| {
                Some((*place, &self.channels.get(place)?.namespace, space.sysctls.keys().collect()))
            })
            .collect();
        let mut last = Place::Host;
        let found = namespace::on_own_thread(|| {
            let mut found = Vec::new();
            for asked in asked.chunks(NAMESPACES_PER_TREE) {
                let tree = sysctl::Tree::fresh()?;
                for (place, file, keys) in asked {
                    last = *place;
                    namespace::enter(file)?;
                    let value = |key: &&Sysctl| Some((*place, (*key).clone(), tree.read(&key.path)?));
                    found.extend(keys.iter().filter_map(value));
                }
            }
            Ok(found)
        });
        for (place, key, value) in found.map_err(|error| KernelError::Sysctl(last, error))? {
            let seen = self.channels.get_mut(&place).and_then(|channel| channel.seen.as_mut());
            seen.and_then(|space| Arc::make_mut(space).sysctls.insert(key, value));
        }
        Ok(())
    }

    /// Operations of one stage in one namespace.
    fn apply_alike(&mut self, ops: &[Op]) -> Vec<Refused> {
        let Some(Op { place, change }) = ops.first() else { return Vec::new() };
        let result = match (place, change) {
            (Place::Inside(namespace), Change::CreateNamespace) => {
                namespace::create(&namespace.name()).and_then(|()| self.follow(*namespace))
            }
            (Place::Inside(namespace), Change::DeleteNamespace) => {
                self.channels.remove(place);
                namespace::remove(&namespace.name())
            }
            (Place::Inside(Namespace::Sandbox(sandbox) | Namespace::Container(sandbox)), Change::AddStacked(..)) => {
                return ops.iter().filter_map(|op| Some(failure(op, &self.bear(*sandbox, op).err()?))).collect();
            }
            (_, Change::SetSysctl(..)) => return self.write_sysctls(*place, ops),
            (_, Change::DeleteLink(_)) if ops.len() > 1 => {
                self.delete_together(*place, ops);
                // Finds most of them gone.
                return self.send(*place, ops);
            }
            _ => return self.send(*place, ops),
        };
        result.err().map(|error| failure(&ops[0], &error)).into_iter().collect()
    }

    /// The kernel waits for its readers once for each link that goes, or once for a whole group of them.
    fn delete_together(&mut self, place: Place, ops: &[Op]) {
        let Some(channel) = self.channels.get_mut(&place) else { return };
        let indices: Vec<u32> = ops.iter().filter_map(|op| channel.index(op.change.link()?).ok()).collect();
        let join = |&index: &u32| (wire::set_link(index, LinkAttribute::Group(wire::GOING)), 0);
        let requests = indices.iter().map(join).chain([(wire::delete_group(wire::GOING), 0)]);
        let requests: Vec<(Message, u16)> = requests.collect();
        // What is refused here is tried one by one.
        requests.chunks(BATCH).for_each(|batch| drop(channel.ask(batch.to_vec())));
    }

    /// Makes a device on a link of the host, inside of a sandbox.
    fn bear(&mut self, task: SandboxId, op: &Op) -> io::Result<()> {
        let Change::AddStacked(name, link, stacked) = &op.change else { return Ok(()) };
        let newborn = names::newborn_link(task, name);
        let parent = self.index(Place::Host, &stacked.parent)?;
        let request = wire::add_stacked(&newborn, link, stacked.layer, parent, Some(self.raw(op.place)?));
        self.order(Place::Host, (request, NLM_F_CREATE | NLM_F_EXCL))?;
        let index = self.index(op.place, &newborn)?;
        self.order(op.place, (wire::set_link(index, LinkAttribute::IfName(name.to_string())), 0))
    }

    fn order(&mut self, place: Place, request: (Message, u16)) -> io::Result<()> {
        let channel = self.channels.get_mut(&place).ok_or_else(|| missing(format!("{place} is missing")))?;
        channel.ask(vec![request]).into_iter().collect()
    }

    fn write_sysctls(&mut self, place: Place, ops: &[Op]) -> Vec<Refused> {
        self.doubt_one(place);
        let Some(channel) = self.channels.get(&place) else { return absent(ops) };
        let written = namespace::within_file(&channel.namespace, || {
            let tree = sysctl::Tree::fresh()?;
            let write = |op: &Op| write_sysctl(&tree, op).err().map(|error| failure(op, &error));
            Ok(ops.iter().filter_map(write).collect())
        });
        written.flatten().unwrap_or_else(|error| ops.iter().map(|op| failure(op, &error)).collect())
    }

    fn send(&mut self, place: Place, ops: &[Op]) -> Vec<Refused> {
        if !self.channels.contains_key(&place) {
            return absent(ops);
        }
        self.doubt_one(place);
        let mut failures = Vec::new();
        let mut requests = Vec::new();
        for op in ops {
            match self.request(op) {
                Ok(request) => requests.push((op, request)),
                Err(error) => failures.push(failure(op, &error)),
            }
        }
        let through = if matches!(ops[0].change, Change::AddVxlan(..)) { Place::Host } else { place };
        let Some(channel) = self.channels.get_mut(&through) else { return absent(ops) };
        for batch in requests.chunks(BATCH) {
            let messages = batch.iter().map(|(_, request)| request.clone()).collect();
            failures.extend(channel.ask(messages).into_iter().zip(batch).filter_map(|(answer, (op, _))| {
                let error = answer.err().filter(|error| !is_done_already(&op.change, error))?;
                Some(failure(op, &error))
            }));
        }
        failures
    }

    fn request(&mut self, op: &Op) -> io::Result<(Message, u16)> {
        const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;
        const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;
        let index = match &op.change {
            Change::AddVxlan(..) | Change::AddStacked(..) | Change::AddPair(..) | Change::DeleteLink(_) => None,
            change => change.link().map(|link| self.index(op.place, link)).transpose()?,
        };
        let at = index.unwrap_or(0);
        Ok(match &op.change {
            Change::DeleteRoute(key, route) => (wire::delete_route(key, route, index), 0),
            // What the host had before leads elsewhere for a reason.
            Change::SetRoute(key, route) if op.place == Place::Host => (wire::set_route(key, route, index), ADD),
            Change::SetRoute(key, route) => (wire::set_route(key, route, index), SET),
            Change::DeleteFdb(key, vtep) => (Message::DelNeighbour(wire::fdb_message(at, key.mac, *vtep)), 0),
            Change::SetFdb(key, vtep) => (Message::NewNeighbour(wire::fdb_message(at, key.mac, *vtep)), SET),
            Change::DeleteNeighbour(key) => (Message::DelNeighbour(wire::neighbour_message(at, key.address, None)), 0),
            Change::SetNeighbour(key, mac) => {
                (Message::NewNeighbour(wire::neighbour_message(at, key.address, Some(*mac))), SET)
            }
            Change::DeleteAddress(key, form) => (Message::DelAddress(wire::address_message(at, key, *form)), 0),
            Change::AddAddress(key, form) => (Message::NewAddress(wire::address_message(at, key, *form)), SET),
            Change::DeleteLink(link) => (wire::delete_link(link), 0),
            Change::AddVxlan(name, link, vxlan) => (wire::add_vxlan(name, link, vxlan, self.raw(op.place)?), ADD),
            Change::AddStacked(name, link, stacked) => {
                let parent = self.index(Place::Host, &stacked.parent)?;
                (wire::add_stacked(name, link, stacked.layer, parent, None), ADD)
            }
            Change::AddPair(pair) => (wire::add_pair(pair, self.raw(pair.place)?), ADD),
            Change::SetMtu(_, mtu) => (wire::set_link(at, LinkAttribute::Mtu(*mtu)), 0),
            Change::SetMac(_, mac) => (wire::set_link(at, LinkAttribute::Address(mac.0.to_vec())), 0),
            Change::SetUp(_) => (wire::set_up(at), 0),
            Change::SetShape(_, shape) => (shape::set(at, *shape), SET),
            Change::DeleteShape(_) => (shape::delete(at), 0),
            Change::Policy(change @ PolicyChange::RepeatLocal(_)) => (change.message(), NLM_F_CREATE),
            Change::Policy(change) => (change.message(), if matches!(change, PolicyChange::Add(_)) { ADD } else { 0 }),
            Change::DeleteNamespace | Change::CreateNamespace | Change::SetSysctl(..) => {
                return Err(io::Error::from(io::ErrorKind::Unsupported));
            }
        })
    }

    fn raw(&self, place: Place) -> io::Result<RawFd> {
        let channel = self.channels.get(&place).ok_or_else(|| missing(format!("{place} is missing")))?;
        Ok(channel.namespace.as_raw_fd())
    }

    fn index(&mut self, place: Place, link: &LinkName) -> io::Result<u32> {
        let channel = self.channels.get_mut(&place).ok_or_else(|| missing(format!("{place} is missing")))?;
        channel.index(link)
    }
}

/// Of a namespace of others, what is asked for there, and what can only have come from us.
fn only_ours(seen: &mut Space<ObservedLink>, asked: Option<&Space<Link>>) {
    let asks_for = |name: &LinkName| asked.is_some_and(|asked| asked.links.contains_key(name));
    seen.links.retain(|name, link| link.ours || asks_for(name) || matches!(link.kind, ObservedKind::Stacked(_)));
    seen.addresses.retain(|key, _| asked.is_some_and(|asked| asked.addresses.contains_key(key)));
    seen.neighbours.retain(|key, _| asked.is_some_and(|asked| asked.neighbours.contains_key(key)));
    seen.routes.retain(|_, route| route.link().is_some_and(asks_for));
}

/// The sockets of one namespace.
struct Channel {
    place: Place,
    identity: Identity,
    namespace: File,
    requests: Socket,
    sequence: u32,
    indices: wire::Indices,
    /// What it held when it was read last, and whether it may have changed since.
    seen: Option<Arc<Space<ObservedLink>>>,
    changed: bool,
    /// Whether it has or should have policy rules of ours.
    has_policies: bool,
    /// Whether it has or should have limits of ours.
    has_shapes: bool,
}

impl Channel {
    fn open(place: Place, namespace: File, identity: Identity) -> io::Result<Self> {
        let requests = namespace::within_file(&namespace, connect)??;
        let (sequence, indices, seen) = (0, BTreeMap::new(), None);
        let (changed, has_policies, has_shapes) = (true, true, true);
        Ok(Self { place, identity, namespace, requests, sequence, indices, seen, changed, has_policies, has_shapes })
    }

    /// Whether it has devices of which the kernel tells a number of the host's.
    fn has_parents(&self) -> bool {
        let mut links = self.seen.iter().flat_map(|space| &space.links);
        let born_with = names::loopback_link();
        links.any(|(name, link)| {
            matches!(link.kind, ObservedKind::Stacked(_) | ObservedKind::Other) && *name != born_with
        })
    }

    /// What another namespace, an open file, is called here.
    fn number(&mut self, namespace: RawFd) -> io::Result<i32> {
        let answers = self.exchange(wire::get_number(namespace), NLM_F_ACK)?;
        answers.iter().find_map(wire::number).ok_or_else(|| missing("the namespace has got no number".to_owned()))
    }

    fn observe(&mut self, host: &wire::Names) -> Result<Space<ObservedLink>, KernelError> {
        self.changed = false;
        let mut space = Space::default();
        for message in self.dump("links", wire::get_links())? {
            let Message::NewLink(message) = message else { continue };
            let Some((_, name)) = wire::link_name(&message).filter(|(_, name)| wire::is_ours(self.place, name)) else {
                continue;
            };
            space.links.insert(name, wire::link(&message, self.place, host));
        }
        self.indices = space.links.iter().map(|(name, link)| (name.clone(), link.index)).collect();
        let names: wire::Names = self.indices.iter().map(|(name, &index)| (index, name.clone())).collect();
        self.observe_addresses(&names, &mut space)?;
        if self.has_policies {
            self.observe_policies(&mut space)?;
        }
        if self.has_shapes {
            self.observe_shapes(&names, &mut space)?;
        }
        if self.place != Place::Host || !names.is_empty() {
            self.observe_neighbours(&names, &mut space)?;
            self.observe_routes(&names, &mut space)?;
        }
        Ok(space)
    }

    fn observe_addresses(&mut self, names: &wire::Names, space: &mut Space<ObservedLink>) -> Result<(), KernelError> {
        for message in self.dump("addresses", wire::get_addresses())? {
            let Message::NewAddress(message) = message else { continue };
            let Some((index, address)) = wire::address(&message) else { continue };
            let Some(link) = names.get(&index).filter(|_| !address.is_loopback()) else { continue };
            let key = AddressKey { link: link.clone(), address };
            space.addresses.insert(key, wire::address_form(&message));
        }
        Ok(())
    }

    fn observe_neighbours(&mut self, names: &wire::Names, space: &mut Space<ObservedLink>) -> Result<(), KernelError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in self.dump("neighbours", wire::get_neighbours(family))? {
                let Message::NewNeighbour(message) = message else { continue };
                space.neighbours.extend(wire::neighbour(&message, names));
            }
        }
        if matches!(self.place, Place::Inside(Namespace::Network(_))) {
            for message in self.dump("forwarding entries", wire::get_neighbours(AddressFamily::Bridge))? {
                let Message::NewNeighbour(message) = message else { continue };
                space.fdb.extend(wire::fdb(&message, names));
            }
        }
        Ok(())
    }

    fn observe_routes(&mut self, names: &wire::Names, space: &mut Space<ObservedLink>) -> Result<(), KernelError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in self.dump("routes", wire::get_routes(family))? {
                let Message::NewRoute(message) = message else { continue };
                let Some((key, route)) = wire::route(&message, self.place, names) else { continue };
                insert_route(&mut space.routes, key, route);
            }
        }
        Ok(())
    }

    fn observe_shapes(&mut self, names: &wire::Names, space: &mut Space<ObservedLink>) -> Result<(), KernelError> {
        for message in self.dump("limits", shape::get())? {
            let Message::NewQueueDiscipline(message) = message else { continue };
            space.shapes.extend(shape::read(&message, names));
        }
        self.has_shapes = !space.shapes.is_empty();
        Ok(())
    }

    /// Read while there are or should be some, and once, for an earlier netd may have left some.
    fn observe_policies(&mut self, space: &mut Space<ObservedLink>) -> Result<(), KernelError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let rules = self.dump("policy rules", wire::get_policies(family))?;
            let rules = rules.into_iter().filter_map(|message| match message {
                Message::NewRule(rule) if rule.header.family == family => Some(rule),
                _ => None,
            });
            let ours = if self.place == Place::Host { Tables::Host } else { Tables::Peers };
            space.policies.read(family, ours, &rules.collect::<Vec<_>>());
        }
        self.has_policies = !space.policies.is_empty();
        Ok(())
    }

    fn index(&mut self, link: &LinkName) -> io::Result<u32> {
        if !self.indices.contains_key(link) {
            let links = self.dump("links", wire::get_links()).map_err(io::Error::other)?;
            let named = links.iter().filter_map(|message| match message {
                Message::NewLink(link) => wire::link_name(link),
                _ => None,
            });
            self.indices = named.map(|(index, name)| (name, index)).collect();
        }
        self.indices.get(link).copied().ok_or_else(|| missing(format!("there is no link {link}")))
    }

    /// A dump that something changed under may lack links that are there (`NLM_F_DUMP_INTR`): it is taken again, since
    /// what is missing by mistake would be torn down.
    fn dump(&mut self, what: &'static str, request: Message) -> Result<Vec<Message>, KernelError> {
        let mut result = self.exchange(request.clone(), NLM_F_DUMP);
        for _ in 1..DUMPS {
            if !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
                break;
            }
            result = self.exchange(request.clone(), NLM_F_DUMP);
        }
        result.map_err(|error| KernelError::Dump(self.place, what, error))
    }

    /// A request, and what is answered up to its end: the flags ask for one.
    fn exchange(&mut self, request: Message, flags: u16) -> io::Result<Vec<Message>> {
        let first = self.sequence.wrapping_add(1);
        self.transmit(vec![(request, flags)], NLM_F_REQUEST)?;
        let (mut found, mut torn) = (Vec::new(), false);
        loop {
            for (header, payload) in receive(&self.requests)? {
                torn |= header.flags & DUMP_INTERRUPTED != 0;
                match payload {
                    _ if header.sequence_number != first => {}
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Done(_) if torn => return Err(io::ErrorKind::Interrupted.into()),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(found),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// The MTU towards each of these addresses: its route's, or that of the link that the route leads out of.
    fn paths(
        &mut self,
        own: IpAddr,
        peers: &BTreeSet<IpAddr>,
        mtus: &BTreeMap<u32, u32>,
    ) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        let failed = |error| KernelError::Dump(Place::Host, "the way to other hosts", error);
        let mut paths = BTreeMap::new();
        for peers in peers.iter().copied().collect::<Vec<_>>().chunks(BATCH) {
            let first = self.sequence.wrapping_add(1);
            let requests = peers.iter().map(|&peer| (wire::get_route(own, peer), 0)).collect();
            self.transmit(requests, NLM_F_REQUEST).map_err(failed)?;
            let mut waiting: BTreeMap<u32, IpAddr> =
                (0..).map(|at| first.wrapping_add(at)).zip(peers.to_vec()).collect();
            while !waiting.is_empty() {
                for (header, payload) in receive(&self.requests).map_err(failed)? {
                    let Some(peer) = waiting.remove(&header.sequence_number) else { continue };
                    // To a peer without a route nothing gets anyway.
                    let NetlinkPayload::InnerMessage(Message::NewRoute(route)) = payload else { continue };
                    paths.extend(wire::path_mtu(&route, mtus).map(|mtu| (peer, mtu)));
                }
            }
        }
        Ok(paths)
    }

    /// Sends requests at once and returns their answers in order.
    fn ask(&mut self, requests: Vec<(Message, u16)>) -> Vec<io::Result<()>> {
        // Links may come and go with these; numbers are looked up again.
        let changes_links =
            |(request, _): &(Message, u16)| matches!(request, Message::NewLink(_) | Message::DelLink(_));
        if requests.iter().any(changes_links) {
            self.indices.clear();
        }
        let count = requests.len();
        let first = self.sequence.wrapping_add(1);
        match self.transmit(requests, NLM_F_REQUEST | NLM_F_ACK).and_then(|()| self.answers(first, count)) {
            Ok(answers) => answers,
            Err(error) => (0..count).map(|_| Err(io::Error::new(error.kind(), error.to_string()))).collect(),
        }
    }

    fn answers(&mut self, first: u32, count: usize) -> io::Result<Vec<io::Result<()>>> {
        let mut answers: Vec<Option<io::Result<()>>> = (0..count).map(|_| None).collect();
        while answers.iter().any(Option::is_none) {
            for (header, payload) in receive(&self.requests)? {
                let NetlinkPayload::Error(error) = payload else { continue };
                if let Some(answer) = answers.get_mut(header.sequence_number.wrapping_sub(first) as usize) {
                    *answer = Some(if error.code.is_none() { Ok(()) } else { Err(error.to_io()) });
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn transmit(&mut self, requests: Vec<(Message, u16)>, flags: u16) -> io::Result<()> {
        let mut buffer = Vec::new();
        for (request, more) in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = flags | more;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
            message.finalize();
            let start = buffer.len();
            buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut buffer[start..start + message.buffer_len()]);
        }
        self.requests.send(&buffer, 0).map(drop)
    }
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // A refusal need not carry the request back.
    socket.set_cap_ack(true)?;
    Ok(socket)
}

fn listen(groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    groups.iter().try_for_each(|&group| socket.add_membership(group))?;
    Ok(socket)
}

type Received = (NetlinkHeader, NetlinkPayload<Message>);

/// The messages of the next datagram.
fn receive(socket: &Socket) -> io::Result<Vec<Received>> {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(DATAGRAM)));
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        socket.recv(buffer, 0)?;
        messages(buffer)
    })
}

/// The messages of one datagram.
fn messages(mut datagram: &[u8]) -> io::Result<Vec<Received>> {
    let mut found = Vec::new();
    while !datagram.is_empty() {
        let message = NetlinkMessage::<Message>::deserialize(datagram)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let length = (message.header.length as usize).next_multiple_of(4).min(datagram.len());
        found.push((message.header, message.payload));
        datagram = &datagram[length..];
    }
    Ok(found)
}

/// Routes of one prefix and metric come in the order in which they take effect.
fn insert_route(routes: &mut BTreeMap<RouteKey, Route>, mut key: RouteKey, route: Route) {
    while routes.contains_key(&key) {
        key.nth += 1;
    }
    routes.insert(key, route);
}

fn write_sysctl(tree: &sysctl::Tree, op: &Op) -> io::Result<()> {
    let Change::SetSysctl(key, value) = &op.change else { return Ok(()) };
    if op.place == Place::Host && key.path == sysctl::IPV6_FORWARDING {
        sysctl::keep_router_advertisements()?;
    }
    tree.write(&key.path, value)
}

/// Deletes of what is gone have done their work.
fn is_done_already(change: &Change, error: &io::Error) -> bool {
    let absent = [Errno::ENOENT, Errno::ESRCH, Errno::ENODEV, Errno::EADDRNOTAVAIL];
    let deletes = change.stage() < Change::CreateNamespace.stage();
    deletes && error.raw_os_error().is_some_and(|code| absent.contains(&Errno::from_raw(code)))
}

fn absent(ops: &[Op]) -> Vec<Refused> {
    ops.iter().map(|op| failure(op, &missing(format!("{} is missing", op.place)))).collect()
}

fn missing(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}

fn failure(op: &Op, error: &io::Error) -> Refused {
    let next = match (error.raw_os_error().map(Errno::from_raw), &op.change) {
        (Some(Errno::EEXIST), Change::AddVxlan(..)) => {
            "; next: another tunnel of this host has this VNI and port, find it by `ip -d link show type vxlan`"
        }
        (Some(Errno::EEXIST), Change::SetRoute(..)) => {
            "; next: this host has another route there already, `ip route` and `ip -6 route` show it: take it away, or \
             remove the network and make it with another subnet"
        }
        (Some(Errno::EBUSY | Errno::EINVAL), Change::AddStacked(..)) => {
            "; next: its parent cannot carry it, because a bridge, a bond or devices of another kind or mode use it: \
             use another parent, such as a VLAN of it"
        }
        (Some(Errno::ENETDOWN), _) => "; next: take its parent up: `ip link set PARENT up`",
        (Some(Errno::EADDRINUSE), Change::SetUp(_)) => {
            "; next: another program has the UDP port of the tunnels, `ss -lunp` names it: stop it, or make the cluster \
             with another --data-path-port"
        }
        (Some(Errno::EPERM | Errno::EACCES), _) => "; next: run netd with CAP_NET_ADMIN and CAP_SYS_ADMIN",
        (Some(Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT), _) => {
            "; next: this kernel lacks the feature: IPv6 and the kind of device must be built in or loadable"
        }
        _ => "; next: netd tries again by itself",
    };
    Refused { op: op.clone(), reason: format!("{error}{next}") }
}
