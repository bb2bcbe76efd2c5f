//! Answers questions about this host's kernel, peers and traffic, relayed from any node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use api::{Difference, Encryption, Examined, Passed, Peer, Subject, Verification, VipTraffic};
use dataplane::{Plane, state::Place, xfrm};
use model::{
    Capability, DriverConfig, Failure, Kind, NetworkId, NodeConfig, NodeId, Refusal, ServiceId,
    TaskId, names::Namespace,
};

use crate::{daemon::Daemon, exchanged::exchanged_with};

/// Next step for a difference without a failure.
const REPAIR: &str =
    "netd will repair it by itself; if it is listed again, read netd's log on that node";

/// Looks at this host. Errors: it has no view yet.
pub(crate) async fn look(daemon: &Daemon, subject: Subject) -> Result<Examined, Refusal> {
    let config = daemon.desired.borrow().clone();
    let dataplane = daemon.dataplane.borrow().clone();
    let (status, dataplane) = dataplane.ok_or_else(|| daemon.has_no_view())?;
    match subject {
        Subject::Kernel => {
            let found = dataplane
                .differences()
                .await
                .ok_or_else(|| daemon.has_no_view())?;
            let failures = &status.borrow().failures.clone();
            let kernel = found
                .chunk_by(are_alike)
                .map(|alike| explain(&config, alike, failures));
            // The ledger itself: a manager that does not vote is none to count on.
            let ledger = daemon.ailment().map(|failure| Difference {
                network: None,
                failure,
            });
            let differences = ledger.into_iter().chain(kernel).collect();
            Ok(Examined::Kernel(Verification {
                view: orchestrator::digests(&config),
                differences,
            }))
        }
        Subject::Peers(network) => Ok(Examined::Peers(peers(config, network).await?)),
        Subject::Traffic(service) => {
            let capabilities = status.borrow().capabilities.clone();
            let looked =
                tokio::task::spawn_blocking(move || traffic(&config, &capabilities, service)).await;
            let found = looked.map_err(|error| {
                Refusal::new(
                    Kind::Unavailable,
                    error.to_string(),
                    "read netd's log on that node",
                )
            });
            found.flatten().map(Examined::Traffic).map_err(|failure| {
                let cause = format!("the balancers' counters cannot be read: {}", failure.cause);
                Refusal { cause, ..failure }
            })
        }
    }
}

/// Traffic counters of a service on this host; not on a LAN, where each client's own sandbox
/// balances.
fn traffic(
    config: &NodeConfig,
    capabilities: &BTreeSet<Capability>,
    service: ServiceId,
) -> Result<Vec<VipTraffic>, Refusal> {
    let own = config
        .peers
        .get(&config.node)
        .map(|own| own.balancer)
        .unwrap_or_default();
    let balancer = own.on(capabilities);
    let is_overlay = |id: &NetworkId| {
        config
            .networks
            .get(id)
            .is_some_and(|network| network.driver.parent().is_none())
    };
    let services = config
        .services
        .iter()
        .filter(|((network, id), _)| *id == service && is_overlay(network));
    let mut found = Vec::new();
    for (&(network, _), service) in services {
        for (vip, traffic) in dataplane::rules::traffic(network, balancer, &service.vips)? {
            let passed = traffic.passed.map(|passed| {
                let ipvs::Passed {
                    packets_in,
                    bytes_in,
                    packets_out,
                    bytes_out,
                } = passed;
                Passed {
                    packets_in,
                    bytes_in,
                    packets_out,
                    bytes_out,
                }
            });
            found.push(VipTraffic {
                vip,
                balancer,
                connections: traffic.connections,
                passed,
            });
        }
    }
    Ok(found)
}

/// The other hosts of a network.
async fn peers(config: Arc<NodeConfig>, network: NetworkId) -> Result<Vec<Peer>, Refusal> {
    let Some(driver) = config.networks.get(&network).map(|network| &network.driver) else {
        return Ok(Vec::new());
    };
    let is_encrypted = matches!(
        driver,
        DriverConfig::Overlay {
            encrypted: true,
            ..
        }
    );
    let mut endpoints: BTreeMap<NodeId, usize> = BTreeMap::new();
    for endpoint in config
        .endpoints
        .values()
        .filter(|e| e.network == network && e.node != config.node)
    {
        *endpoints.entry(endpoint.node).or_default() += 1;
    }
    let exchanged = if is_encrypted {
        exchanged(&config).await?
    } else {
        BTreeMap::new()
    };
    let peer = |(node, endpoints): (NodeId, usize)| {
        let peer = config.peers.get(&node)?;
        let encryption = is_encrypted.then(|| exchanged.get(&node).cloned().unwrap_or_default());
        Some(Peer {
            hostname: peer.hostname.clone(),
            vtep: peer.vtep,
            endpoints,
            encryption,
        })
    };
    Ok(endpoints.into_iter().filter_map(peer).collect())
}

/// What this host's kernel has counted, by peer.
async fn exchanged(config: &Arc<NodeConfig>) -> Result<BTreeMap<NodeId, Encryption>, Refusal> {
    let unreadable = |reason: String| {
        Refusal::new(
            Kind::Unavailable,
            format!("the kernel's IPsec cannot be read: {reason}"),
            "read netd's log on that node",
        )
    };
    // The kernel is the one of the namespace that the thread is in: the daemon's own.
    let looked = tokio::task::spawn_blocking(|| (xfrm::observe(), unknown())).await;
    let (observed, unknown) = looked.map_err(|error| unreadable(error.to_string()))?;
    let observed = observed.map_err(|error| unreadable(error.to_string()))?;
    let Some(wanted) = xfrm::Wanted::of(config) else {
        return Ok(BTreeMap::new());
    };
    let peers = wanted.peers.iter();
    Ok(peers
        .map(|(id, peer)| {
            (
                *id,
                Encryption {
                    unknown,
                    ..exchanged_with(&wanted, peer, &observed)
                },
            )
        })
        .collect())
}

/// Packets that no key was there for (`XfrmInNoStates`); 0 where the kernel keeps no statistics.
fn unknown() -> u64 {
    let statistics = fs::read_to_string("/proc/thread-self/net/xfrm_stat").unwrap_or_default();
    let line = statistics
        .lines()
        .find_map(|line| line.strip_prefix("XfrmInNoStates"));
    line.and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// Many rules of one namespace are missing together, and for one reason.
fn are_alike(a: &dataplane::Difference, b: &dataplane::Difference) -> bool {
    use dataplane::Difference::Todo;
    match (a, b) {
        (Todo { plane: a, .. }, Todo { plane: b, .. }) => a == b && matches!(a, Plane::Rules(_)),
        _ => false,
    }
}

/// Differences in the words of people; why they are still there, where the last pass met a failure.
fn explain(
    config: &NodeConfig,
    alike: &[dataplane::Difference],
    failures: &[dataplane::Failure],
) -> Difference {
    let (place, plane, what) = match &alike[0] {
        dataplane::Difference::Todo { place, plane, what } => (*place, plane, what),
        dataplane::Difference::Failed(failure) => {
            return Difference {
                network: None,
                failure: failure.clone(),
            };
        }
    };
    let more = match alike.len() {
        1 => String::new(),
        several => format!(", and {} more changes of rules", several - 1),
    };
    let todo = format!("the kernel differs from the view; to do: {what}{more}");
    let (network, object) = describe(config, place);
    let failure = match failures.iter().find(|failure| failure.plane == *plane) {
        Some(failure) => Failure {
            object,
            cause: format!("{todo}: {}", failure.why.cause),
            ..failure.why.clone()
        },
        None => Failure::new(Kind::Precondition, todo, REPAIR).about(object),
    };
    Difference { network, failure }
}

/// What people call a place.
fn describe(config: &NodeConfig, place: Place) -> (Option<NetworkId>, String) {
    match place {
        Place::Inside(Namespace::Network(id)) => {
            let network = config.networks.get(&id);
            let name = network.map_or_else(|| id.to_string(), |network| network.name.clone());
            (Some(id), format!("network {name}"))
        }
        Place::Inside(Namespace::Sandbox(id) | Namespace::Container(id)) => {
            let task = config.tasks.get(&TaskId(id.0));
            let container = config.containers.get(&id);
            let object = match (task, container) {
                (Some(task), _) => format!("task {}", task.name()),
                (None, Some(container)) => format!("container {}", container.name),
                (None, None) => format!("sandbox {id}"),
            };
            (None, object)
        }
        Place::Host => (None, "host".to_owned()),
    }
}
