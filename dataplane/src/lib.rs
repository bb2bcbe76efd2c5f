//! The data plane of this host: makes the kernel hold what a `NodeConfig` asks for and keeps it so.
//! One thread owns it: desired (pure) → observe → plan (pure) → apply, after each change, on
//! notices of the kernel, and every second. Another plane is one more file with its own observe,
//! plan and apply, called from `reconcile`: IPsec and the host's rules come before links, so that
//! no tunnel is up which they do not guard.

mod changed;
mod channel;
pub mod desired;
mod doubt;
mod kernel;
mod last;
mod listing;
pub mod namespace;
mod notices;
pub mod plan;
pub mod policy;
pub mod ports;
mod probe;
mod read;
mod resolvers;
pub mod rules;
pub mod shape;
pub mod state;
mod sysctl;
#[cfg(test)]
mod tests;
mod turn;
mod wire;
pub mod xfrm;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use model::{
    Capability, DriverConfig, EndpointId, Kind, Mac, NodeConfig, NodeId, SandboxId, Spi, Subnet,
    names::{self, Namespace},
};
use nix::errno::Errno;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use tracing::{info, warn};

pub use resolvers::asked_by_engines;

use channel::KernelError;
use desired::{Desired, Ground};
use doubt::Doubt;
use kernel::{Inhabited, Kernel, Refused};
use last::Last;
use plan::{Change, Observed, Op, plan, replan};
use ports::{Open, Ports};
use probe::Probes;
use rules::{Grounds, Pending, Rules, WantedRules};
use state::{ObservedKind, ObservedLink, Place};
use xfrm::{Encryption, Tunnels};

/// Interval of passes over a settled kernel: some changes (sysctls, namespaces) cause no notice.
const PERIOD: Duration = Duration::from_secs(1);
/// Changes of the kernel come in flocks.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// A pass that failed is repeated after this time, doubled each time up to [`RETRY_LAST`].
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// Most rounds of one pass: deleting an address, for example, removes routes that must be added
/// again.
const ROUNDS: usize = 3;

/// How many may ask for a look at the same time.
const VISITORS: usize = 8;

/// Why a change that was made without complaint is still missing.
const UNDONE: &str = "the kernel took it, yet does not show it";
const FIND_UNDOER: &str = "find out what undoes it, by `ip monitor` or `nft monitor`";

/// Why an encrypted tunnel is not made.
const OPEN: &str = "it is encrypted, and what keeps plaintext in is not all in place";

/// The next step where it is no person's.
const AGAIN: &str = "netd tries again by itself";

/// Whose work something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Links, addresses, routes and neighbours: this operation.
    Links(Box<Op>),
    /// The rules of nftables and the balancers of one place.
    Rules(Place),
    /// IPsec of the host: this operation, where it is about one.
    Ipsec(Option<String>),
    /// Another one: published ports, addresses in use on a LAN, or the view itself.
    Other,
}

/// What could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whose work it was.
    pub plane: Plane,
    /// The one task that it keeps from running; `None` where it is the host's.
    pub sandbox: Option<SandboxId>,
    /// What it was about, why it failed, and what to do next.
    pub why: model::Failure,
}

impl Failure {
    /// An operation on links that failed.
    fn of_op(op: &Op, sandbox: Option<SandboxId>, why: model::Failure) -> Self {
        Self {
            plane: Plane::Links(Box::new(op.clone())),
            sandbox,
            why: why.about(op.to_string()),
        }
    }

    /// A failure that concerns the host as a whole.
    fn of_host(why: model::Failure) -> Self {
        let (plane, sandbox) = (Plane::Other, None);
        Self {
            plane,
            sandbox,
            why,
        }
    }
}

/// The kernel took it and does not show it.
fn undone() -> model::Failure {
    model::Failure::new(Kind::Conflict, UNDONE, FIND_UNDOER)
}

/// The kind of what the kernel refuses.
fn kind_of(errno: i32) -> Kind {
    match Errno::from_raw(errno) {
        Errno::EPERM | Errno::EACCES => Kind::Denied,
        Errno::EEXIST | Errno::EBUSY | Errno::EADDRINUSE => Kind::Conflict,
        Errno::ENOSPC | Errno::ENOMEM | Errno::ENOBUFS | Errno::EMFILE => Kind::Exhausted,
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::ENETDOWN => Kind::Precondition,
        _ => Kind::Unavailable,
    }
}

/// What the kernel said, and what to do about it.
fn kernel_said(error: &io::Error, next: &str) -> model::Failure {
    let errno = error.raw_os_error();
    let kind = errno.map_or(Kind::Unavailable, kind_of);
    model::Failure::new(kind, error.to_string(), next).with_errno(errno)
}

/// How far the kernel is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whose configuration was last attempted in full; a host that joins anew is another node.
    pub node: Option<NodeId>,
    /// Its generation.
    pub generation: u64,
    /// Whether the kernel was read and holds all of it, tasks aside that cannot be on this host.
    pub settled: bool,
    /// What does not hold.
    pub failures: Vec<Failure>,
    /// The tasks whose sandboxes and endpoints are as they should be.
    pub ready: BTreeSet<SandboxId>,
    /// What networks may ask for and this kernel has.
    pub capabilities: BTreeSet<Capability>,
    /// Associations with these peers that the kernel has lost.
    pub lost: BTreeSet<(NodeId, Spi)>,
    /// The prefixes that links of the host's own are on.
    pub on_link: BTreeSet<Subnet>,
}

impl Status {
    /// What keeps this task from running here.
    pub fn failure_of(&self, sandbox: SandboxId) -> Option<&model::Failure> {
        let mut failures = self.failures.iter();
        let of_it = failures.find(|failure| failure.sandbox == Some(sandbox))?;
        Some(&of_it.why)
    }
}

/// For looking at the inside of a running data plane.
#[derive(Clone, Debug)]
pub struct Dataplane {
    inside: watch::Receiver<Arc<Inside>>,
    visitors: mpsc::Sender<oneshot::Sender<Vec<Difference>>>,
}

/// How the kernel differs from what it should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Something is to be done.
    Todo {
        /// Where.
        place: Place,
        /// Whose work it is.
        plane: Plane,
        /// What.
        what: String,
    },
    /// Something cannot be done, or be read.
    Failed(model::Failure),
}

/// How much has been read of the kernel since the start, but for what is read in turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Dumps of rtnetlink: of all objects of a kind in a namespace, or of those of one link.
    pub dumps: u64,
    /// Tables of nftables.
    pub tables: u64,
}

#[derive(Debug, Default)]
struct Inside {
    passes: u64,
    reads: Reads,
    observed: Observed,
    plan: Arc<Vec<Op>>,
    rules: Vec<Pending>,
    ipsec: (xfrm::Observed, Vec<xfrm::Op>),
}

/// What the thread of the data plane owns.
struct Planes {
    kernel: Kernel,
    rules: Rules,
    probes: Probes,
    encryption: Encryption,
    ports: Ports,
    /// Whether the kernel has been seen to encrypt.
    has_esp: bool,
    reads: Reads,
    thoughts: Thoughts,
}

/// What follows from the configuration and the kernel.
#[derive(Default)]
struct Thoughts {
    /// The devices on LANs that were seen inside of containers of others.
    taken: BTreeSet<EndpointId>,
    desired: Last<(Arc<NodeConfig>, Ground), Desired>,
    plan: Last<(Arc<Desired>, Observed), Vec<Op>>,
    rules: Last<Grounds, WantedRules>,
}

impl Thoughts {
    fn plan(&mut self, desired: &Arc<Desired>, observed: &Observed) -> Arc<Vec<Op>> {
        self.plan.of(
            (desired.clone(), observed.clone()),
            |(desired, observed), before| match before {
                Some(((asked, found), ops)) => replan((asked, found, ops), desired, observed),
                None => plan(desired, observed),
            },
        )
    }

    fn rules(
        &mut self,
        config: &Arc<NodeConfig>,
        observed: &Observed,
        open: &Arc<Open>,
    ) -> Arc<WantedRules> {
        let asked = if config.handed().next().is_some() {
            resolvers::asked_by_engines()
        } else {
            BTreeSet::new()
        };
        let grounds = Grounds {
            config: config.clone(),
            observed: observed.clone(),
            open: open.clone(),
            asked,
        };
        self.rules.of(grounds, |grounds, before| match before {
            Some((last, wanted)) => rules::rewanted(last, wanted, grounds),
            None => rules::wanted(grounds),
        })
    }
}

impl Dataplane {
    /// What the kernel held of ours at the end of the last pass.
    pub fn observed(&self) -> String {
        let inside = self.inside.borrow();
        format!("{:#?}\n{:#?}", inside.observed, inside.ipsec.0)
    }

    /// How the kernel differs now, seen by a pass that changes nothing; `None` once the data plane
    /// has ended.
    pub async fn differences(&self) -> Option<Vec<Difference>> {
        let (answer, answered) = oneshot::channel();
        self.visitors.send(answer).await.ok()?;
        answered.await.ok()
    }

    /// How many passes have read the kernel: one per period while nothing changes.
    pub fn passes(&self) -> u64 {
        self.inside.borrow().passes
    }

    /// How much the passes have read of the kernel.
    pub fn reads(&self) -> Reads {
        self.inside.borrow().reads
    }

    /// What the next pass would change, one operation per line; empty when settled.
    pub fn plan(&self) -> String {
        let inside = self.inside.borrow();
        let ops = inside.plan.iter().map(ToString::to_string);
        let rules = inside.rules.iter().flat_map(Pending::lines);
        let ipsec = inside
            .ipsec
            .1
            .iter()
            .map(|op| format!("{}: IPsec: {op}", Place::Host));
        ops.chain(rules)
            .chain(ipsec)
            .fold(String::new(), |text, line| text + &line + "\n")
    }
}

/// Starts the data plane in the calling thread's network namespace, on a thread of its own. It
/// takes the first value of `desired` as the truth (an empty configuration removes all that is
/// ours) and ends when its sender is dropped, leaving the kernel as it is. `inhabited` finds the
/// network namespace that a task's processes are in, so that a sandbox is found again without its
/// name; `directory` keeps what must survive a reboot. Errors: no thread or no runtime can be had.
pub fn spawn(
    desired: watch::Receiver<Arc<NodeConfig>>,
    directory: &Path,
    inhabited: impl Fn(SandboxId) -> Option<File> + Send + Sync + 'static,
) -> io::Result<(watch::Receiver<Arc<Status>>, Dataplane)> {
    let (inhabited, directory): (Inhabited, _) = (Arc::new(inhabited), directory.to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (status, status_seen) = watch::channel(Arc::new(Status::default()));
    let (inside, inside_seen) = watch::channel(Arc::new(Inside::default()));
    let (visitors, visits) = mpsc::channel(VISITORS);
    let outlet = Outlet {
        status,
        inside,
        visits,
    };
    thread::Builder::new()
        .name("dataplane".to_owned())
        .spawn(move || runtime.block_on(run(desired, inhabited, outlet, &directory)))?;
    Ok((
        status_seen,
        Dataplane {
            inside: inside_seen,
            visitors,
        },
    ))
}

struct Outlet {
    status: watch::Sender<Arc<Status>>,
    inside: watch::Sender<Arc<Inside>>,
    visits: mpsc::Receiver<oneshot::Sender<Vec<Difference>>>,
}

async fn run(
    mut desired: watch::Receiver<Arc<NodeConfig>>,
    inhabited: Inhabited,
    mut outlet: Outlet,
    directory: &Path,
) {
    let Some(kernel) = open(&mut desired, &inhabited, &outlet).await else {
        return;
    };
    let (rules, probes, encryption) = (
        Rules::default(),
        Probes::default(),
        Encryption::open(directory),
    );
    let (ports, thoughts) = (Ports::default(), Thoughts::default());
    let mut planes = Planes {
        kernel,
        rules,
        probes,
        encryption,
        ports,
        has_esp: false,
        reads: Reads::default(),
        thoughts,
    };
    let capabilities = planes.capabilities();
    planes.rules = Rules::new(capabilities.clone());
    let mut config = desired.borrow_and_update().clone();
    let mut retry = RETRY_FIRST;
    loop {
        if desired.has_changed().is_ok_and(|changed| changed) {
            config = newer(config, desired.borrow_and_update().clone());
            retry = RETRY_FIRST;
        }
        let status = pass(&mut planes, &config, &outlet);
        let status = Status {
            capabilities: capabilities.clone(),
            ..status
        };
        let pause = if status.settled { PERIOD } else { retry };
        retry = if status.settled {
            RETRY_FIRST
        } else {
            (retry * 2).min(RETRY_LAST)
        };
        publish(&outlet, status);
        tokio::select! {
            changed = desired.changed() => {
                if changed.is_err() {
                    return;
                }
                config = newer(config, desired.borrow_and_update().clone());
                retry = RETRY_FIRST;
            }
            () = planes.kernel.changed() => rest(&desired).await,
            () = planes.rules.changed() => rest(&desired).await,
            () = planes.encryption.changed() => rest(&desired).await,
            () = planes.probes.changed() => {}
            // The pass that follows repairs what the visitor was shown.
            Some(visitor) = outlet.visits.recv() => drop(visitor.send(differences(&mut planes, &config))),
            () = sleep(pause) => {}
        }
    }
}

/// Waits until a burst of changes is over; a new configuration ends the wait.
async fn rest(desired: &watch::Receiver<Arc<NodeConfig>>) {
    let mut next = desired.clone();
    tokio::select! {
        _ = next.changed() => {}
        () = sleep(DEBOUNCE) => {}
    }
}

/// Opens the kernel, however long it takes.
async fn open(
    desired: &mut watch::Receiver<Arc<NodeConfig>>,
    inhabited: &Inhabited,
    outlet: &Outlet,
) -> Option<Kernel> {
    loop {
        match Kernel::open(inhabited.clone()) {
            Ok(kernel) => return Some(kernel),
            Err(error) => publish(outlet, unreadable(&desired.borrow(), &error)),
        }
        tokio::select! {
            changed = desired.changed() => changed.ok()?,
            () = sleep(RETRY_LAST) => {}
        }
    }
}

/// Generations count within one membership: a host that joins anew gets another node id and another
/// log.
fn newer(applied: Arc<NodeConfig>, offered: Arc<NodeConfig>) -> Arc<NodeConfig> {
    if offered.node == applied.node && offered.generation < applied.generation {
        warn!(
            offered = offered.generation,
            applied = applied.generation,
            "refused an older configuration"
        );
        return applied;
    }
    offered
}

fn pass(planes: &mut Planes, config: &Arc<NodeConfig>, outlet: &Outlet) -> Status {
    match reconcile(planes, config) {
        Ok((status, inside)) => {
            let passes = outlet.inside.borrow().passes + 1;
            outlet
                .inside
                .send_replace(Arc::new(Inside { passes, ..inside }));
            status
        }
        Err(error) => unreadable(config, &error),
    }
}

fn publish(outlet: &Outlet, status: Status) {
    let status = Arc::new(status);
    outlet.status.send_if_modified(|last| {
        if **last == *status {
            return false;
        }
        for failure in status
            .failures
            .iter()
            .filter(|failure| !last.failures.contains(failure))
        {
            let model::Failure {
                object,
                cause,
                next,
                ..
            } = &failure.why;
            warn!(object, cause, next, "the data plane lacks something");
        }
        *last = status;
        true
    });
}

/// A kernel that cannot be read never looks settled.
fn unreadable(config: &NodeConfig, error: &KernelError) -> Status {
    let failure = Failure::of_host(error.failure());
    Status {
        node: Some(config.node),
        generation: config.generation,
        settled: false,
        failures: vec![failure],
        ..Status::default()
    }
}

/// One pass: IPsec and the host's rules first, then links, addresses and routes, then the rules of
/// the namespaces.
fn reconcile(
    planes: &mut Planes,
    config: &Arc<NodeConfig>,
) -> Result<(Status, Inside), KernelError> {
    let present = planes.kernel.present()?;
    planes.rules.forget_the_gone(&present);
    let (config, unable) = planes.able(config);
    let secret = xfrm::Wanted::of(&config);
    let mut ipsec = planes.encryption.settle(secret.as_ref(), Tunnels::Up);
    let is_closed = ipsec.closed
        && (secret.is_none() || guards_host(&mut planes.rules, &config, &planes.ports.open));
    let Linked {
        desired,
        observed,
        plan,
        failures,
    } = reconcile_links(planes, &config, is_closed)?;
    planes.probes.go_on(&desired, &observed, &plan);
    if plan.is_empty() && ipsec.left.iter().any(xfrm::Op::is_last) {
        ipsec = planes.encryption.settle(secret.as_ref(), Tunnels::Settled);
    }
    planes.ports.settle(&config, &desired);
    let (pending, refused) = planes.rules.settle(&planes.thoughts.rules(
        &config,
        &observed,
        &planes.ports.open,
    ));
    let mut status = judge(&config, &desired, &plan, failures);
    status.failures.extend(planes.probes.failures(&desired));
    let refused: Vec<Failure> = refused
        .into_iter()
        .chain(ipsec.failures)
        .chain(unable)
        .collect();
    status.settled &= refused.iter().all(|failure| failure.sandbox.is_some());
    status.failures.extend(refused);
    // Somebody else's port is no reason to hold anything else up.
    status
        .failures
        .extend(planes.ports.failures.iter().cloned());
    status.lost = ipsec.lost;
    // Without the host's rules nothing is isolated, without its own each network's are missing.
    let is_open = pending.iter().any(Pending::leaves_host_open);
    let unruled = |task: &SandboxId| {
        let networks = desired.sandboxes[task]
            .iter()
            .map(|(network, _)| Namespace::Network(*network));
        let own = [Namespace::Sandbox(*task), Namespace::Container(*task)];
        let mut places = networks.chain(own).map(Place::Inside);
        is_open && !desired.sandboxes[task].is_empty()
            || places.any(|place| pending.iter().any(|rules| rules.place == place))
    };
    status.ready.retain(|task| !unruled(task));
    let ipsec = (planes.encryption.observed().clone(), ipsec.left);
    planes.reads.dumps = planes.kernel.dumps();
    planes.reads.tables += planes.rules.reads();
    Ok((
        status,
        Inside {
            reads: planes.reads,
            observed,
            plan,
            rules: pending,
            ipsec,
            ..Inside::default()
        },
    ))
}

impl Planes {
    /// What networks may ask for and this kernel has.
    fn capabilities(&mut self) -> BTreeSet<Capability> {
        let mut found = self.kernel.kinds();
        match xfrm::probe() {
            Ok(()) => drop(found.insert(Capability::Esp)),
            Err(error) => {
                info!(%error, options = Capability::Esp.options(), "this kernel cannot encrypt")
            }
        }
        match ipvs::ip_vs::probe() {
            Ok(()) => drop(found.insert(Capability::Ipvs)),
            Err(error) => {
                info!(%error, options = Capability::Ipvs.options(), "nftables translates virtual IPs")
            }
        }
        found
    }

    /// The configuration without the encrypted networks, where this kernel cannot encrypt: they are
    /// not brought up at all.
    fn able(&mut self, config: &Arc<NodeConfig>) -> (Arc<NodeConfig>, Vec<Failure>) {
        if self.has_esp
            || !config
                .networks
                .values()
                .any(|network| is_encrypted(&network.driver))
        {
            return (config.clone(), Vec::new());
        }
        let Err(error) = xfrm::probe() else {
            self.has_esp = true;
            return (config.clone(), Vec::new());
        };
        let (kept, refused): (BTreeMap<_, _>, BTreeMap<_, _>) = config
            .networks
            .clone()
            .into_iter()
            .partition(|(_, network)| !is_encrypted(&network.driver));
        let next = format!("load or build {}", Capability::Esp.options());
        let cause = format!("it is encrypted, and this kernel lacks ESP with AES-GCM: {error}");
        let why = model::Failure::new(Kind::Precondition, cause, next);
        let failures = refused
            .into_values()
            .map(|network| why.clone().about(format!("network {}", network.name)))
            .map(Failure::of_host)
            .collect();
        (
            Arc::new(NodeConfig {
                networks: kept,
                ..NodeConfig::clone(config)
            }),
            failures,
        )
    }
}

fn is_encrypted(driver: &DriverConfig) -> bool {
    matches!(
        driver,
        DriverConfig::Overlay {
            encrypted: true,
            ..
        }
    )
}

/// Makes the host's own rules; whether they are there.
fn guards_host(rules: &mut Rules, config: &Arc<NodeConfig>, open: &Arc<Open>) -> bool {
    // The host's rules depend on no link.
    let wanted = rules::wanted(&Grounds {
        config: config.clone(),
        observed: Observed::default(),
        open: open.clone(),
        asked: BTreeSet::new(),
    });
    let (pending, refused) = rules.settle(
        &wanted
            .into_iter()
            .filter(|(place, _)| *place == Place::Host)
            .collect(),
    );
    pending.is_empty() && refused.is_empty()
}

/// What a pass would find to do, and what the last one could not.
fn differences(planes: &mut Planes, config: &Arc<NodeConfig>) -> Vec<Difference> {
    planes.kernel.doubt_all();
    let (config, unable) = planes.able(config);
    let (desired, observed) = match look(planes, &config) {
        Ok(seen) => seen,
        Err(error) => {
            return vec![Difference::Failed(error.failure())];
        }
    };
    let ops = planes.thoughts.plan(&desired, &observed);
    let ops = ops.iter().map(|op| Difference::Todo {
        place: op.place,
        plane: Plane::Links(Box::new(op.clone())),
        what: op.change.to_string(),
    });
    let (pending, unread) = planes.rules.look(&planes.thoughts.rules(
        &config,
        &observed,
        &planes.ports.open,
    ));
    let lines = |rules: &Pending| {
        rules
            .lines()
            .map(|what| Difference::Todo {
                place: rules.place,
                plane: Plane::Rules(rules.place),
                what,
            })
            .collect()
    };
    let rules = pending.iter().flat_map::<Vec<_>, _>(lines);
    let asked: Vec<Failure> = planes.probes.failures(&desired).collect();
    let ipsec = planes
        .encryption
        .pending(xfrm::Wanted::of(&config).as_ref());
    let ipsec = ipsec.into_iter().map(|what| Difference::Todo {
        place: Place::Host,
        plane: Plane::Ipsec(Some(what.clone())),
        what,
    });
    let refused = desired
        .failures
        .iter()
        .chain(&unread)
        .chain(&asked)
        .chain(&unable)
        .chain(&planes.ports.failures);
    let refused = refused.map(|failure| Difference::Failed(failure.why.clone()));
    ops.chain(rules).chain(ipsec).chain(refused).collect()
}

fn look(
    planes: &mut Planes,
    config: &Arc<NodeConfig>,
) -> Result<(Arc<Desired>, Observed), KernelError> {
    let Planes {
        kernel,
        probes,
        thoughts,
        ..
    } = planes;
    let vtep = |node: &NodeId| config.peers.get(node).map(|peer| peer.vtep);
    let sharing = config.endpoints.values().map(|endpoint| endpoint.node);
    let led_by = config
        .peers
        .keys()
        .copied()
        .filter(|_| !config.published.is_empty());
    let peers: BTreeSet<NodeId> = sharing
        .chain(led_by)
        .filter(|node| *node != config.node)
        .collect();
    let peers = peers.iter().filter_map(vtep).collect();
    loop {
        let (free, alive) = (probes.free(), kernel.alive(config));
        let ground = Ground {
            free,
            alive,
            taken: thoughts.taken.clone(),
            ..kernel.ground(vtep(&config.node), &peers)?
        };
        let desired =
            thoughts.desired.of(
                (config.clone(), ground),
                |(config, ground), before| match before {
                    Some(((last, stood), desired)) => desired.after((last, stood), config, ground),
                    None => Desired::of(config, ground),
                },
            );
        let observed = kernel.observe(&desired)?;
        let before = std::mem::replace(&mut thoughts.taken, taken(config, &observed));
        if !probes.adopt(&desired, &observed) && before == thoughts.taken {
            return Ok((desired, observed));
        }
    }
}

/// The endpoints on a LAN whose devices have been taken from the host into their containers.
fn taken(config: &NodeConfig, observed: &Observed) -> BTreeSet<EndpointId> {
    let mut taken = BTreeSet::new();
    for (&sandbox, container) in &config.containers {
        let Some(space) = observed
            .spaces
            .get(&Place::Inside(Namespace::Container(sandbox)))
        else {
            continue;
        };
        let is_on_lan = |link: &&ObservedLink| matches!(link.kind, ObservedKind::Stacked(_));
        let macs: BTreeSet<Mac> = space
            .links
            .values()
            .filter(is_on_lan)
            .filter_map(|link| link.mac)
            .collect();
        let handed = container
            .endpoints
            .iter()
            .filter(|joint| joint.interface.is_none());
        let has = |id: &EndpointId| {
            config
                .endpoints
                .get(id)
                .is_some_and(|endpoint| macs.contains(&endpoint.mac))
        };
        taken.extend(handed.map(|joint| joint.id).filter(has));
    }
    taken
}

/// What the kernel holds of links, and what it does not.
struct Linked {
    desired: Arc<Desired>,
    observed: Observed,
    plan: Arc<Vec<Op>>,
    failures: Vec<Failure>,
}

/// Repeats until the kernel holds what is asked for, or something fails. No encrypted tunnel is
/// made unless `is_closed`: nothing could pass it in the clear.
fn reconcile_links(
    planes: &mut Planes,
    config: &Arc<NodeConfig>,
    is_closed: bool,
) -> Result<Linked, KernelError> {
    let mut failures = Vec::new();
    let mut rounds = 0;
    loop {
        let (desired, observed) = look(planes, config)?;
        let plan = planes.thoughts.plan(&desired, &observed);
        if plan.is_empty() || rounds == ROUNDS || !failures.is_empty() {
            // What has failed is looked at as a whole before it is tried again.
            for op in plan.iter() {
                planes.kernel.doubt(op.place, Doubt::whole());
            }
            return Ok(Linked {
                desired,
                observed,
                plan,
                failures,
            });
        }
        info!(generation = config.generation, operations = plan.len(), first = %plan[0], "changing the kernel");
        let failure = |refused: Refused| {
            let sandbox = sandbox_of(&desired, &refused.op);
            Failure::of_op(&refused.op, sandbox, refused.why)
        };
        let (withheld, due): (Vec<Op>, Vec<Op>) = plan
            .iter()
            .cloned()
            .partition(|op| !is_closed && is_secret(op, config));
        failures = planes.kernel.apply(&due).into_iter().map(failure).collect();
        let open = |op: Op| {
            let why =
                model::Failure::new(Kind::Precondition, OPEN, "see IPsec and nftables of host");
            Failure::of_op(&op, sandbox_of(&desired, &op), why)
        };
        failures.extend(withheld.into_iter().map(open));
        rounds += 1;
    }
}

/// Whether this makes an encrypted tunnel.
fn is_secret(op: &Op, config: &NodeConfig) -> bool {
    let Change::AddVxlan(_, _, tunnel) = &op.change else {
        return false;
    };
    config
        .networks
        .values()
        .any(|network| network.vni == tunnel.vni && is_encrypted(&network.driver))
}

fn sandbox_of(desired: &Desired, op: &Op) -> Option<SandboxId> {
    desired.sandbox_of(op.place, op.change.link()?)
}

fn judge(
    config: &NodeConfig,
    desired: &Desired,
    plan: &[Op],
    mut failures: Vec<Failure>,
) -> Status {
    if plan.is_empty() {
        failures.clear();
    } else if failures.is_empty() {
        let undone = |op: &Op| Failure::of_op(op, sandbox_of(desired, op), undone());
        failures.extend(plan.iter().map(undone));
    }
    failures.extend(desired.failures.iter().cloned());
    let ready = desired
        .sandboxes
        .keys()
        .copied()
        .filter(|&task| is_ready(task, desired, plan))
        .collect();
    let settled = failures.iter().all(|failure| failure.sandbox.is_some());
    let (node, generation, on_link) = (
        Some(config.node),
        config.generation,
        desired.on_link.clone(),
    );
    Status {
        node,
        generation,
        settled,
        failures,
        ready,
        on_link,
        ..Status::default()
    }
}

/// A task is ready when nothing is left to do in its sandbox, nor in its networks save on others'
/// endpoints, and when it may be on all of them.
fn is_ready(task: SandboxId, desired: &Desired, plan: &[Op]) -> bool {
    let joints = desired.sandboxes.get(&task);
    let concerns = |op: &Op| match op.place {
        Place::Host => {
            let handed = op
                .change
                .link()
                .and_then(|link| names::parse_handed_link(link.as_str()));
            joints
                .into_iter()
                .flatten()
                .any(|(_, endpoint)| handed == Some(*endpoint))
        }
        Place::Inside(Namespace::Sandbox(other) | Namespace::Container(other)) => other == task,
        Place::Inside(Namespace::Network(network)) => {
            joints.into_iter().flatten().any(|(joint, endpoint)| {
                let of = op
                    .change
                    .link()
                    .and_then(|link| names::parse_endpoint_link(link.as_str()));
                *joint == network && of.is_none_or(|of| of == *endpoint)
            })
        }
    };
    let refused = desired
        .failures
        .iter()
        .any(|failure| failure.sandbox == Some(task));
    let unanswered = desired
        .questions
        .values()
        .any(|question| question.sandbox == task && question.open);
    !refused && !unanswered && !plan.iter().any(concerns)
}
