//! One pass: the planes in their order, each of which observes, plans and applies.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use model::{
    Capability, DriverConfig, EndpointId, Kind, Mac, NetworkId, NodeConfig, NodeId, SandboxId,
    names::Namespace,
};
use tracing::info;

use super::{
    arrivals::Arrivals,
    channel::KernelError,
    derived::{Derived, Stand},
    desired::Desired,
    doubt::Doubt,
    inspect::{Difference, Inside, Reads},
    kernel::{Asked, Kernel, Refused},
    plan::{Change, Observed, Op},
    policy::HOST_TABLES,
    ports::{Open, Ports},
    probe::Probes,
    rules::{self, Grounds, Pending, Rules},
    state::{ObservedKind, ObservedLink, Place},
    status::{Failure, Held, Plane, Status, judge},
    xfrm::{self, Encryption, Tunnels},
};

/// Most rounds of one pass: deleting an address, for example, removes routes that must be added
/// again.
const ROUNDS: usize = 3;

/// Why an encrypted tunnel is not made.
const OPEN: &str =
    "its network is encrypted, and the policies and rules that drop plaintext are not all in place";
/// What to do about it.
const CLOSE: &str = "mend what this host reports of IPsec and of nftables of host";

/// What the thread of the data plane owns.
pub(crate) struct Planes {
    pub kernel: Kernel,
    pub rules: Rules,
    pub probes: Probes,
    pub encryption: Encryption,
    pub ports: Ports,
    /// Whether the kernel has been seen to encrypt.
    pub has_esp: bool,
    pub reads: Reads,
    pub derived: Derived,
    pub arrivals: Arrivals,
}

/// One pass: IPsec and the host's rules first, then links, addresses and routes, then the rules of
/// the namespaces.
pub(crate) fn reconcile(
    planes: &mut Planes,
    config: &Arc<NodeConfig>,
) -> Result<(Status, Inside), KernelError> {
    let present = planes.kernel.present()?;
    planes.rules.forget_the_gone(&present);
    let (config, unable) = planes.able(config);
    let secret = xfrm::Wanted::of(&config);
    let mut ipsec = planes.encryption.reconcile(secret.as_ref(), Tunnels::Up);
    let is_closed = ipsec.closed
        && (secret.is_none() || guards_host(&mut planes.rules, &config, &planes.ports.open));
    let secrets = if is_closed {
        Secrets::Guarded
    } else {
        Secrets::Unguarded
    };
    let Linked {
        desired,
        observed,
        plan,
        failures,
    } = reconcile_links(planes, &config, secrets)?;
    planes.probes.reconcile(&desired, &observed, &plan);
    if plan.is_empty() && ipsec.left.iter().any(xfrm::Op::is_last) {
        ipsec = planes
            .encryption
            .reconcile(secret.as_ref(), Tunnels::Settled);
    }
    planes.ports.reconcile(&config, &desired);
    let (pending, refused) =
        planes
            .rules
            .reconcile(&planes.derived.rules(&config, &observed, &planes.ports.open));
    let mut status = judge(&config, &desired, &plan, failures);
    status.failures.extend(planes.probes.failures(&desired));
    let refused = refused.into_iter().chain(ipsec.failures).chain(unable);
    refused.for_each(|failure| status.add(failure));
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
    if !pending.is_empty() {
        status.ready.retain(|task| !unruled(task));
    }
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

/// What networks may ask for and this kernel has.
pub(crate) fn capabilities(kernel: &mut Kernel) -> BTreeSet<Capability> {
    let mut found = kernel.kinds();
    match xfrm::probe() {
        Ok(()) => drop(found.insert(Capability::Esp)),
        Err(error) => {
            info!(%error, options = Capability::Esp.options(), "this kernel cannot encrypt")
        }
    }
    match ipvs::ip_vs::probe() {
        Ok(()) => drop(found.insert(Capability::Ipvs)),
        Err(error) => {
            let options = Capability::Ipvs.options();
            info!(%error, options, "nftables translates virtual IPs")
        }
    }
    found
}

impl Planes {
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
        let mut kept = config.networks.clone();
        kept.retain(|_, network| !is_encrypted(&network.driver));
        let next = format!("load or build {}", Capability::Esp.options());
        let cause = format!("it is encrypted, and this kernel lacks ESP with AES-GCM: {error}");
        let why = model::Failure::new(Kind::Precondition, cause, next);
        let networks = config.networks.iter();
        let refused = networks.filter(|(_, network)| is_encrypted(&network.driver));
        let failures = refused
            .map(|(id, network)| {
                let why = why.clone().about(format!("network {}", network.name));
                Failure::of_network(*id, why)
            })
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
        observed: Arc::default(),
        open: open.clone(),
    });
    let (pending, refused) = rules.reconcile(
        &wanted
            .into_iter()
            .filter(|(place, _)| *place == Place::Host)
            .collect(),
    );
    pending.is_empty() && refused.is_empty()
}

/// What a pass would find to do, and what the last one could not.
pub(crate) fn differences(planes: &mut Planes, config: &Arc<NodeConfig>) -> Vec<Difference> {
    planes.kernel.doubt_all();
    let (config, unable) = planes.able(config);
    let (desired, observed) = match observe(planes, &config) {
        Ok(seen) => seen,
        Err(error) => {
            return vec![Difference::Failed(error.failure())];
        }
    };
    let ops = planes.derived.plan(&desired, &observed);
    let ops = ops.iter().map(|op| Difference::Todo {
        place: op.place,
        plane: Plane::Links(Box::new(op.clone())),
        what: op.change.to_string(),
    });
    let (pending, unread) =
        planes
            .rules
            .differences(&planes.derived.rules(&config, &observed, &planes.ports.open));
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
        .differences(xfrm::Wanted::of(&config).as_ref());
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

/// The other hosts that this one talks to: those that share a network with it, and those that lead
/// callers here, of published ports or of open networks.
fn asked(config: &NodeConfig) -> Asked {
    let vtep = |node: &NodeId| config.peers.get(node).map(|peer| peer.vtep);
    let sharing = config.endpoints.values().map(|endpoint| endpoint.node);
    let is_open = || {
        let mut networks = config.networks.values();
        networks.any(|network| network.reach.is_open())
    };
    let led_by = config
        .peers
        .keys()
        .copied()
        .filter(|_| !config.published.is_empty() || is_open());
    let peers: BTreeSet<NodeId> = sharing
        .chain(led_by)
        .filter(|node| *node != config.node)
        .collect();
    Asked {
        own: vtep(&config.node),
        peers: peers.iter().filter_map(vtep).collect(),
    }
}

/// What the host should hold, and what it holds. Some of the first depends on the second.
fn observe(
    planes: &mut Planes,
    config: &Arc<NodeConfig>,
) -> Result<(Arc<Desired>, Arc<Observed>), KernelError> {
    let Planes {
        kernel,
        probes,
        derived,
        arrivals,
        ..
    } = planes;
    let asked = derived.asked.of(config.clone(), |config, _| asked(config));
    loop {
        let stand = Stand {
            host: kernel.ground(&asked)?,
            free: probes.free(),
            alive: kernel.alive(config),
            taken: derived.taken.clone(),
            led: derived.led.clone(),
        };
        let desired = derived.desired(config, stand);
        let observed = kernel.observe(&desired)?;
        let before = std::mem::replace(&mut derived.taken, taken(config, &observed));
        let led_before = std::mem::replace(&mut derived.led, led(config, &desired, &observed));
        let is_same = before == derived.taken && led_before == derived.led;
        if !probes.adopt(&desired, &observed) && is_same {
            arrivals.expect(to_come(config, &kernel.alive(config)));
            return Ok((desired, observed));
        }
    }
}

/// Where the namespaces of containers are to be that are not there yet.
fn to_come(config: &NodeConfig, alive: &BTreeSet<SandboxId>) -> BTreeSet<PathBuf> {
    let containers = config.containers.iter();
    let to_come = containers
        .filter(|(sandbox, container)| container.identity.is_none() && !alive.contains(sandbox));
    to_come
        .map(|(_, container)| PathBuf::from(&container.path))
        .collect()
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

/// Where networks have one mark: those that packets to published ports are led into now.
fn led(config: &NodeConfig, desired: &Desired, observed: &Observed) -> BTreeSet<NetworkId> {
    let Some(host) = observed.spaces.get(&Place::Host) else {
        return BTreeSet::new();
    };
    let rules = host.policies.rules.iter();
    let tables: BTreeSet<u32> = rules.filter_map(|rule| rule.table).collect();
    let is_led = |id: &NetworkId| {
        let network = config.networks.get(id);
        network.is_some_and(|network| tables.contains(&(HOST_TABLES | u32::from(network.vni))))
    };
    let alike = desired
        .undiverted
        .iter()
        .flat_map(|(id, first)| [*id, *first]);
    alike.filter(is_led).collect()
}

/// What the kernel holds of links, and what it does not.
struct Linked {
    desired: Arc<Desired>,
    observed: Arc<Observed>,
    plan: Arc<Vec<Op>>,
    failures: Vec<Failure>,
}

/// Whether packets of encrypted networks could leave this host in the clear.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrets {
    Guarded,
    Unguarded,
}

/// Repeats until the kernel holds what is asked for, or something fails. Encrypted tunnels are made
/// only where they are guarded.
fn reconcile_links(
    planes: &mut Planes,
    config: &Arc<NodeConfig>,
    secrets: Secrets,
) -> Result<Linked, KernelError> {
    let mut failures = Vec::new();
    let mut rounds = 0;
    loop {
        let (desired, observed) = observe(planes, config)?;
        let plan = planes.derived.plan(&desired, &observed);
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
        let (generation, operations) = (config.generation, plan.len());
        info!(generation, operations, first = %plan[0], "changing the kernel");
        let failure = |refused: Refused| {
            let held = Held::by(config, &desired, &refused.op);
            Failure::of_op(&refused.op, held, refused.why)
        };
        let (withheld, due): (Vec<Op>, Vec<Op>) = plan
            .iter()
            .cloned()
            .partition(|op| secrets == Secrets::Unguarded && is_secret(op, config));
        failures = planes.kernel.apply(&due).into_iter().map(failure).collect();
        let open = |op: Op| {
            let why = model::Failure::new(Kind::Precondition, OPEN, CLOSE);
            Failure::of_op(&op, Held::by(config, &desired, &op), why)
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
