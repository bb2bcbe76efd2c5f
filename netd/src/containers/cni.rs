//! Requests of the CNI plugin: sends commands to the cluster, and waits until this host's kernel
//! has applied them. Decides nothing about addresses.

use std::{io, net::IpAddr, path::Path, sync::Arc, time::Duration};

use api::{Attached, CniInterface, CniName, ContainerReply, ContainerRequest};
use dataplane::desired::OUTER;
use model::{
    AddressWish, Command, Container, ContainerCommand, ContainerConfig, ContainerKey,
    ContainerRuntime, ContainerSpec, ContainerTraits, DriverConfig, EndpointConfig, Family, Kind,
    NetworkConfig, NodeConfig, NodeId, Outcome, Question, Refusal, Sandbox, SubnetLease, names,
    other_version,
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    identity, inside, real_path,
    roster::{Standing, place},
};
use crate::{
    cluster::{Patience, ask, propose},
    daemon::{Daemon, Member},
};

/// How long an interface may take from the ledger to the kernel.
const ATTACH: Duration = Duration::from_secs(15);
/// How long the kernel may refuse it until that is the answer.
const REFUSED: Duration = Duration::from_secs(3);
/// How long an interface that is not as it should be may take to become so again: it is repaired
/// about once a second.
const CONVERGENCE: Duration = Duration::from_secs(4);
/// How long DEL waits for a leader, and for the kernel. What is left continues in the background.
const DETACH: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at an interface that is being removed.
const GLANCE: Duration = Duration::from_millis(4);

type Reply = Result<ContainerReply, Refusal>;

/// Executes a request of the plugin to its end, even if the plugin has died.
pub(crate) async fn answer(daemon: &Arc<Daemon>, request: ContainerRequest) -> Reply {
    let daemon = daemon.clone();
    let work = tokio::spawn(async move {
        match request {
            ContainerRequest::Add(asked) => add(&daemon, *asked).await,
            ContainerRequest::Check(asked) => check(&daemon, &asked).await,
            ContainerRequest::Del { name, sandbox } => {
                del(&daemon, &name, sandbox.as_deref()).await
            }
            ContainerRequest::Gc {
                configuration,
                valid,
            } => gc(&daemon, &configuration, &valid).await,
            ContainerRequest::Status { network } => status(&daemon, network).await,
        }
    });
    work.await.unwrap_or_else(|error| {
        Err(Refusal::new(
            Kind::Unavailable,
            error.to_string(),
            "try again",
        ))
    })
}

/// Key of a container's interface in the ledger: unique on this host.
fn id(name: &CniName) -> String {
    let CniName {
        container,
        interface,
        own,
    } = name;
    own.iter()
        .fold(format!("{container}/{interface}"), |id, own| {
            format!("{id}/{own}")
        })
}

fn key(node: NodeId, id: &str) -> ContainerKey {
    ContainerKey {
        node,
        runtime: ContainerRuntime::Cni,
        id: id.to_owned(),
    }
}

/// Loads the containers that were attached before this daemon started.
pub(super) async fn load(daemon: &Daemon, member: &Member) -> Result<(), Refusal> {
    let node = member.node();
    if daemon.roster.is_loaded(node) {
        return Ok(());
    }
    let containers = ask(member, Question::containers(node.to_string())).await?;
    let of_cni = containers
        .into_iter()
        .filter(|container| container.key.runtime == ContainerRuntime::Cni);
    daemon.roster.load(node, of_cni.collect());
    Ok(())
}

async fn add(daemon: &Daemon, asked: CniInterface) -> Reply {
    let asked = CniInterface {
        sandbox: real_path(&asked.sandbox),
        ..asked
    };
    let (member, id) = (daemon.member()?, id(&asked.name));
    let _turn = daemon.roster.turn(&id).await;
    load(daemon, &member).await?;
    let before = daemon.roster.standing(&id);
    let sandbox = sandbox(&asked)?;
    let is_same = matches!(&before, Standing::Attached(known) if place(known) == Some(&sandbox));
    if !asked.only_addresses && !is_same && before != Standing::Leaving {
        refuse_taken(daemon, &asked, &sandbox).await?;
    }
    let container = attach(daemon, &member, &asked, &sandbox).await?;
    let attached = match asked.only_addresses {
        true => held(&member, container).await,
        false => ready(daemon, container, &sandbox).await,
    };
    // A failed ADD leaves nothing; a container that was attached before stays.
    if attached.is_err() && !is_same {
        detach(daemon, &member, std::slice::from_ref(&id)).await;
    }
    attached.map(|attached| ContainerReply::Attached(Box::new(attached)))
}

fn inner_name(name: &CniName) -> &str {
    name.own.as_ref().unwrap_or(&name.interface)
}

fn sandbox(asked: &CniInterface) -> Result<Sandbox, Refusal> {
    let sandbox = living(&asked.sandbox, &asked.name).ok_or_else(|| gone(&asked.sandbox))?;
    if inside::is_own(Path::new(&sandbox.path)) && !asked.only_addresses {
        let cause = format!("{} is the host's own network namespace", sandbox.path);
        return Err(Refusal::new(
            Kind::Invalid,
            cause,
            "give the container one of its own",
        ));
    }
    Ok(sandbox)
}

fn gone(path: &str) -> Refusal {
    Refusal::new(
        Kind::Invalid,
        format!("there is no network namespace {path}"),
        "the runtime makes it before ADD",
    )
}

async fn refuse_taken(
    daemon: &Daemon,
    asked: &CniInterface,
    sandbox: &Sandbox,
) -> Result<(), Refusal> {
    if !is_taken(daemon, sandbox)
        .await
        .map_err(|error| unreadable(sandbox, &error))?
    {
        return Ok(());
    }
    let (name, path) = (inner_name(&asked.name), &sandbox.path);
    let next = "use another CNI_IFNAME, or `interface` in the configuration where another plugin \
                of the list makes it";
    Err(Refusal::new(
        Kind::Conflict,
        format!("there is an interface {name} in {path} already"),
        next,
    ))
}

/// Whether somebody else has an interface of this name there. One of ours that the ledger has given
/// up, but not yet the kernel, as when a daemon was killed over it, is waited for.
async fn is_taken(daemon: &Daemon, sandbox: &Sandbox) -> io::Result<bool> {
    if look(sandbox).await?.is_none() {
        return Ok(false);
    }
    // What is still there then is refused, or left to the data plane.
    let _late = timeout(DETACH, forgotten(daemon, sandbox)).await;
    Ok(look(sandbox).await?.is_some())
}

/// Waits until the data plane has made true a view without this interface.
async fn forgotten(daemon: &Daemon, sandbox: &Sandbox) -> Option<()> {
    let has = |config: &NodeConfig| {
        let mut of_it = config
            .containers
            .values()
            .filter(|entry| entry.path == sandbox.path);
        of_it.any(|entry| {
            entry
                .endpoints
                .iter()
                .any(|joint| joint.interface == sandbox.interface)
        })
    };
    let mut desired = daemon.desired.subscribe();
    let config = desired
        .wait_for(|config| config.generation > 0 && !has(config))
        .await
        .ok()?
        .clone();
    let mut dataplane = daemon.dataplane.subscribe();
    let mut status = dataplane
        .wait_for(Option::is_some)
        .await
        .ok()?
        .as_ref()?
        .0
        .clone();
    let is_applied = |status: &Arc<dataplane::Status>| {
        status.node == Some(config.node) && status.generation >= config.generation
    };
    status.wait_for(is_applied).await.ok().map(|_| ())
}

/// The interface as the kernel has it.
async fn look(sandbox: &Sandbox) -> io::Result<Option<inside::Interface>> {
    let Sandbox {
        path,
        identity,
        interface,
    } = sandbox.clone();
    let name = interface.unwrap_or_default();
    let look = move || inside::interface(&path, identity.as_deref(), &name);
    tokio::task::spawn_blocking(look)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn unreadable(sandbox: &Sandbox, error: &io::Error) -> Refusal {
    let cause = format!(
        "the network namespace {} cannot be entered: {error}",
        sandbox.path
    );
    Refusal::new(
        Kind::Invalid,
        cause,
        "make sure that it is mounted in netd's mount namespace, too",
    )
}

async fn attach(
    daemon: &Daemon,
    member: &Member,
    asked: &CniInterface,
    sandbox: &Sandbox,
) -> Result<Container, Refusal> {
    let wish = |v4: bool| AddressWish {
        wanted: true,
        exact: asked
            .addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == v4),
        within: None,
    };
    let held_for = asked.only_addresses.then(|| sandbox.clone());
    let id = id(&asked.name);
    let spec = ContainerSpec {
        key: key(member.node(), &id),
        network: asked.network.clone(),
        ipv4: wish(true),
        ipv6: wish(false),
        mac: asked.mac,
        sandbox: Some(sandbox.clone()).filter(|_| held_for.is_none()),
        left: false,
        traits: Some(ContainerTraits {
            held_for,
            ..asked.traits.clone()
        }),
    };
    match propose(
        member,
        Command::Container(ContainerCommand::Attach {
            spec: Box::new(spec),
        }),
    )
    .await
    {
        Ok(Outcome::Container(container)) => {
            daemon.roster.attached((*container).clone());
            Ok(*container)
        }
        Ok(_) => Err(odd()),
        Err(refusal) => {
            // It may be in a leader's log and be done later, when nobody waits for it any more.
            if refusal.kind == Kind::Unavailable {
                daemon.roster.leaves(&id);
            }
            Err(refusal)
        }
    }
}

/// The addresses that another plugin puts on an interface of its own: neither our gateway nor our
/// resolver is there.
async fn held(member: &Member, container: Container) -> Result<Attached, Refusal> {
    let network = ask(member, Question::network(container.network.to_string())).await?;
    let leases = network
        .status
        .subnets
        .iter()
        .filter(|lease| owns(lease, &container.addresses));
    let subnets: Vec<SubnetLease> = leases.copied().collect();
    let ways_out = subnets
        .iter()
        .filter(|_| !network.spec.internal)
        .map(|lease| lease.gateway)
        .collect();
    Ok(Attached {
        container,
        internal: network.spec.internal,
        subnets,
        ways_out,
        mtu: None,
        resolvers: Vec::new(),
    })
}

fn owns(lease: &SubnetLease, addresses: &[IpAddr]) -> bool {
    addresses
        .iter()
        .any(|&address| lease.subnet.contains(address))
}

/// Waits until packets pass the interface.
async fn ready(
    daemon: &Daemon,
    container: Container,
    sandbox: &Sandbox,
) -> Result<Attached, Refusal> {
    let find = |config: &NodeConfig| {
        let endpoint = config.endpoints.get(&container.id)?;
        is_in(config, &container, sandbox).then_some(endpoint.sandbox)
    };
    let patience = Patience {
        ready: ATTACH,
        refused: REFUSED,
    };
    let config = daemon.until_ready(find, patience).await?;
    let interface = look(sandbox).await.ok().flatten();
    describe(
        &config,
        container,
        interface.and_then(|interface| interface.mtu),
    )
    .ok_or_else(odd)
}

fn entry<'a>(config: &'a NodeConfig, endpoint: &EndpointConfig) -> Option<&'a ContainerConfig> {
    config.containers.get(&endpoint.sandbox)
}

/// Whether a view has the interface as it now is.
fn is_in(config: &NodeConfig, container: &Container, sandbox: &Sandbox) -> bool {
    let Some(endpoint) = config.endpoints.get(&container.id) else {
        return false;
    };
    let joins = |entry: &ContainerConfig| {
        let mut joints = entry.endpoints.iter();
        entry.identity == sandbox.identity
            && joints.any(|joint| joint.id == container.id && joint.interface == sandbox.interface)
    };
    endpoint.addresses == container.addresses
        && endpoint.mac == container.mac
        && config.networks.contains_key(&container.network)
        && entry(config, endpoint).is_some_and(joins)
}

/// The reply to the runtime about an interface.
fn describe(config: &NodeConfig, container: Container, mtu: Option<u32>) -> Option<Attached> {
    let network = config.networks.get(&container.network)?;
    let subnets = network
        .subnets
        .iter()
        .filter(|lease| owns(lease, &container.addresses))
        .copied()
        .collect();
    let joint = config.endpoints.get(&container.id)?;
    let ways_out = [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| way_out(config, entry(config, joint)?, family));
    let ways_out = ways_out
        .filter(|(of, _)| *of == container.id)
        .map(|(_, gateway)| gateway)
        .collect();
    let resolvers = match network.driver {
        DriverConfig::Overlay { .. } => container
            .addresses
            .iter()
            .filter_map(|&own| gateway(network, own))
            .collect(),
        _ => vec![names::RESOLVER.into()],
    };
    Some(Attached {
        internal: network.internal,
        container,
        subnets,
        ways_out,
        mtu,
        resolvers,
    })
}

/// By which of its endpoints a container leaves, per family: the first whose network has a way out.
fn way_out(
    config: &NodeConfig,
    container: &ContainerConfig,
    family: Family,
) -> Option<(model::EndpointId, IpAddr)> {
    container.endpoints.iter().find_map(|joint| {
        let endpoint = config.endpoints.get(&joint.id)?;
        let network = config
            .networks
            .get(&endpoint.network)
            .filter(|network| !network.internal)?;
        let address = endpoint
            .addresses
            .iter()
            .find(|address| Family::of(**address) == family)?;
        let gateway = gateway(network, *address)?;
        let is_overlay = network.driver.parent().is_none();
        Some((
            joint.id,
            if is_overlay && gateway.is_ipv6() {
                OUTER.into()
            } else {
                gateway
            },
        ))
    })
}

fn gateway(network: &NetworkConfig, address: IpAddr) -> Option<IpAddr> {
    network
        .subnets
        .iter()
        .find(|lease| lease.subnet.contains(address))
        .map(|lease| lease.gateway)
}

/// CHECK: whether an interface is as ADD returned it. Waits for a repair that is under way.
async fn check(daemon: &Daemon, asked: &CniInterface) -> Reply {
    let asked = CniInterface {
        sandbox: real_path(&asked.sandbox),
        ..asked.clone()
    };
    let sandbox = sandbox(&asked)?;
    let deadline = Instant::now() + CONVERGENCE;
    loop {
        let fault = match asked.only_addresses {
            true => lacks_hold(daemon, &asked).await?,
            false => lacks(daemon, &asked, &sandbox).await,
        };
        match fault {
            None => return Ok(ContainerReply::Done),
            Some(fault) if Instant::now() > deadline => {
                let cause = format!(
                    "{} of {}: {fault}",
                    inner_name(&asked.name),
                    asked.name.container
                );
                return Err(Refusal::new(
                    Kind::Precondition,
                    cause,
                    "`swarmctl network verify` says more",
                ));
            }
            Some(_) => sleep(PAUSE).await,
        }
    }
}

async fn lacks_hold(daemon: &Daemon, asked: &CniInterface) -> Result<Option<String>, Refusal> {
    load(daemon, &daemon.member()?).await?;
    match daemon.roster.standing(&id(&asked.name)) {
        Standing::Attached(known)
            if asked
                .addresses
                .iter()
                .all(|address| known.addresses.contains(address)) =>
        {
            Ok(None)
        }
        _ => Ok(Some("its addresses are not held for it".to_owned())),
    }
}

/// What an interface lacks, by this host's view, its data plane and the kernel; asks no manager.
async fn lacks(daemon: &Daemon, asked: &CniInterface, sandbox: &Sandbox) -> Option<String> {
    let config = daemon.desired.borrow().clone();
    let is_it =
        |entry: &&ContainerConfig| entry.path == sandbox.path && entry.identity == sandbox.identity;
    let entry = config.containers.values().find(is_it);
    let joint = entry.and_then(|entry| {
        entry
            .endpoints
            .iter()
            .find(|joint| joint.interface == sandbox.interface)
    });
    let Some(endpoint) = joint.and_then(|joint| config.endpoints.get(&joint.id)) else {
        return Some("it is not attached".to_owned());
    };
    if let Some(address) = asked
        .addresses
        .iter()
        .find(|address| !endpoint.addresses.contains(address))
    {
        return Some(format!("{address} is not its address"));
    }
    let status = match daemon.status() {
        Ok(status) => status.borrow().clone(),
        Err(refusal) => return Some(refusal.cause),
    };
    if let Some(failure) = status.failure_of(endpoint.sandbox) {
        return Some(failure.in_one_line());
    }
    if !status.ready.contains(&endpoint.sandbox) {
        return Some("it is not ready".to_owned());
    }
    match look(sandbox).await {
        Err(error) => Some(error.to_string()),
        Ok(None) => Some("the kernel has no such interface".to_owned()),
        Ok(Some(found)) => {
            let missing = endpoint
                .addresses
                .iter()
                .find(|address| !found.addresses.contains(address));
            missing.map(|address| format!("it lacks its address {address}"))
        }
    }
}

/// DEL: detaches an interface. It never fails, because a runtime would keep the dead container for
/// ever; a release that is not possible now is retried later.
async fn del(daemon: &Daemon, name: &CniName, path: Option<&str>) -> Reply {
    let Ok(member) = daemon.member() else {
        return Ok(ContainerReply::Done);
    };
    let id = id(name);
    let _turn = daemon.roster.turn(&id).await;
    if !matches!(timeout(DETACH, load(daemon, &member)).await, Ok(Ok(()))) {
        daemon.roster.leaves(&id);
        return Ok(ContainerReply::Done);
    }
    let standing = daemon.roster.standing(&id);
    if standing != Standing::Absent && !detach(daemon, &member, &[id]).await {
        return Ok(ContainerReply::Done);
    }
    match standing {
        Standing::Attached(known) => {
            if let Some(sandbox) = known.sandbox.filter(|sandbox| !super::is_gone(sandbox)) {
                removed(&sandbox).await;
            }
        }
        // A daemon that was killed may have given it up in the ledger only.
        Standing::Absent | Standing::Leaving => {
            if let Some(sandbox) = path.and_then(|path| living(path, name)) {
                drop(is_taken(daemon, &sandbox).await);
            }
        }
    }
    Ok(ContainerReply::Done)
}

/// Where an interface is, while its namespace is there.
fn living(path: &str, name: &CniName) -> Option<Sandbox> {
    let path = real_path(path);
    let identity = Some(identity(Path::new(&path))?);
    Some(Sandbox {
        path,
        identity,
        interface: Some(inner_name(name).to_owned()),
    })
}

/// Has the ledger give these up; whether it has. If not, it is tried again until it does.
pub(super) async fn detach(daemon: &Daemon, member: &Member, ids: &[String]) -> bool {
    let keys = ids.iter().map(|id| key(member.node(), id)).collect();
    match timeout(
        DETACH,
        propose(
            member,
            Command::Container(ContainerCommand::Detach { keys }),
        ),
    )
    .await
    {
        Ok(Ok(_)) => {
            daemon.roster.gone(ids);
            true
        }
        _ => {
            ids.iter().for_each(|id| daemon.roster.leaves(id));
            false
        }
    }
}

/// Waits until the interface is gone from a namespace that stays: its name may be used again at
/// once.
async fn removed(sandbox: &Sandbox) {
    let gone = async {
        while let Ok(Some(_)) = look(sandbox).await {
            sleep(GLANCE).await;
        }
    };
    // The data plane goes on without us.
    let _late = timeout(DETACH, gone).await;
}

async fn gc(daemon: &Daemon, configuration: &str, valid: &[CniName]) -> Reply {
    let member = daemon.member()?;
    load(daemon, &member).await?;
    let lives = |known: &String| {
        let mut living = valid.iter().map(id);
        living.any(|id| {
            known
                .strip_prefix(id.as_str())
                .is_some_and(|own| own.is_empty() || own.starts_with('/'))
        })
    };
    let mut dead = daemon.roster.of_configuration(configuration);
    dead.retain(|known| !lives(known));
    if !dead.is_empty() && !detach(daemon, &member, &dead).await {
        let cause = format!("{} interfaces could not be released now", dead.len());
        return Err(Refusal::new(
            Kind::Unavailable,
            cause,
            "netd releases them as soon as there is a leader",
        ));
    }
    Ok(ContainerReply::Done)
}

/// Whether ADD would work.
async fn status(daemon: &Daemon, name: String) -> Reply {
    let network = ask(&daemon.member()?, Question::network(name)).await?;
    if !network.spec.attachable {
        let cause = format!("network {} is not attachable", network.spec.name);
        return Err(Refusal::new(
            Kind::Precondition,
            cause,
            "`swarmctl network create --attachable` makes one that is",
        ));
    }
    let is_full = |family: Family| {
        let mut of_family = network
            .status
            .subnets
            .iter()
            .map(|lease| lease.subnet)
            .filter(|subnet| subnet.family() == family);
        let first = of_family.next()?;
        of_family
            .chain([first])
            .all(|subnet| network.status.exhausted.contains(&subnet))
            .then_some(first)
    };
    if let Some(subnet) = is_full(Family::V4).or_else(|| is_full(Family::V6)) {
        let cause = format!(
            "network {} has no free address in {subnet}",
            network.spec.name
        );
        return Err(Refusal::new(
            Kind::Exhausted,
            cause,
            "remove containers, or make a larger network",
        ));
    }
    daemon.status()?;
    Ok(ContainerReply::Done)
}

fn odd() -> Refusal {
    other_version("a manager")
}
