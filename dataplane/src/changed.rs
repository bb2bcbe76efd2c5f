//! Which parts of a view differ from those of an earlier one, so that only what depends on them is
//! made anew. Pure.

use std::collections::BTreeSet;

use model::{
    EndpointConfig, EndpointId, NetworkId, NodeConfig, PublishMode, PublishedConfig, Records,
    SandboxId, TaskId,
};

/// The parts that differ. Networks on a LAN are never among them: what one of them asks for depends
/// on others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Networks whose endpoints differ, and all that the sandboxes are on.
    pub networks: BTreeSet<NetworkId>,
    /// Networks whose virtual services differ.
    pub services: BTreeSet<NetworkId>,
    /// Sandboxes on this host that differ.
    pub sandboxes: BTreeSet<SandboxId>,
    /// Endpoints that have come.
    pub added: BTreeSet<EndpointId>,
    /// Whether any has gone, or is another one now.
    pub shrinks: bool,
}

impl Changed {
    /// What leads from one view to the other; `None` where everything may differ.
    pub(crate) fn between(before: &NodeConfig, after: &NodeConfig) -> Option<Self> {
        let is_alike = before.node == after.node
            && before.peers == after.peers
            && before.networks == after.networks
            && (before.published.differences(&after.published))
                .all(|(_, [old, new])| old.map(lead) == new.map(lead));
        if !is_alike {
            return None;
        }
        let mut changed = Self::default();
        for (id, endpoints) in before.endpoints.differences(&after.endpoints) {
            match endpoints[0] {
                None => drop(changed.added.insert(*id)),
                Some(_) => changed.shrinks = true,
            }
            for endpoint in endpoints.into_iter().flatten() {
                changed.networks.insert(endpoint.network);
                if endpoint.node == after.node {
                    changed.sandboxes.insert(endpoint.sandbox);
                }
            }
        }
        let services = before.services.differences(&after.services);
        changed
            .services
            .extend(services.map(|((network, _), _)| network));
        let tasks = before.tasks.differences(&after.tasks);
        let tasks = tasks.filter(|(_, tasks)| {
            let [before, after] = tasks.map(|task| task.map(|task| &task.endpoints));
            before != after
        });
        let containers = before.containers.differences(&after.containers);
        changed
            .sandboxes
            .extend(tasks.map(|(task, _)| SandboxId::from(*task)));
        changed.sandboxes.extend(containers.map(|(id, _)| *id));
        changed.spread([before, after])
    }

    /// These sandboxes differ, too.
    pub(crate) fn with(
        mut self,
        sandboxes: impl IntoIterator<Item = SandboxId>,
        views: [&NodeConfig; 2],
    ) -> Option<Self> {
        self.sandboxes.extend(sandboxes);
        self.spread(views)
    }

    /// Adds the networks that the sandboxes are on.
    fn spread(mut self, views: [&NodeConfig; 2]) -> Option<Self> {
        for view in views {
            let joined = (self.sandboxes.iter()).flat_map(|sandbox| endpoints_of(view, *sandbox));
            let networks = joined.filter_map(|id| Some(view.endpoints.get(&id)?.network));
            self.networks.extend(networks);
        }
        let is_on_lan = |network: &NetworkId| {
            let mut records = views.iter().filter_map(|view| view.networks.get(network));
            records.any(|record| record.driver.parent().is_some())
        };
        let mut touched = self.networks.iter().chain(&self.services);
        (!touched.any(is_on_lan)).then_some(self)
    }
}

/// The part of a view that what these networks and sandboxes ask for follows from.
pub(crate) fn part(view: &NodeConfig, changed: &Changed) -> NodeConfig {
    let on_networks = |endpoint: &&EndpointConfig| changed.networks.contains(&endpoint.network);
    let here = view.endpoints.values().filter(on_networks);
    let here = here.filter(|endpoint| endpoint.node == view.node);
    let sandboxes: BTreeSet<SandboxId> = here
        .map(|endpoint| endpoint.sandbox)
        .chain(changed.sandboxes.iter().copied())
        .collect();
    let on_them = (view.endpoints.iter()).filter(|(_, endpoint)| on_networks(endpoint));
    of_sandboxes(view, changed, &sandboxes, on_them.map(|(id, _)| *id))
}

/// The part of a view that what has come on these networks asks for; one endpoint of each that was
/// there before goes with it, without which the host would have no part in its network.
pub(crate) fn added_part(view: &NodeConfig, changed: &Changed) -> NodeConfig {
    let mut sandboxes = changed.sandboxes.clone();
    let mut left = changed.networks.clone();
    for (id, endpoint) in &view.endpoints {
        if left.is_empty() {
            break;
        }
        let is_old = endpoint.node == view.node && !changed.added.contains(id);
        if is_old
            && !changed.sandboxes.contains(&endpoint.sandbox)
            && left.remove(&endpoint.network)
        {
            sandboxes.insert(endpoint.sandbox);
        }
    }
    of_sandboxes(view, changed, &sandboxes, changed.added.iter().copied())
}

/// The view of these sandboxes, with their endpoints and more.
fn of_sandboxes(
    view: &NodeConfig,
    changed: &Changed,
    sandboxes: &BTreeSet<SandboxId>,
    more: impl Iterator<Item = EndpointId>,
) -> NodeConfig {
    let joined = (sandboxes.iter()).flat_map(|sandbox| endpoints_of(view, *sandbox));
    let endpoints: Records<EndpointId, EndpointConfig> = joined
        .chain(more)
        .filter_map(|id| Some((id, view.endpoints.get(&id)?.clone())))
        .collect();
    let used: BTreeSet<NetworkId> = (endpoints.values())
        .map(|endpoint| endpoint.network)
        .chain(changed.networks.iter().copied())
        .collect();
    let networks = (view.networks.iter()).filter(|(id, _)| used.contains(id));
    let published =
        (view.published.iter()).filter(|(_, port)| changed.networks.contains(&port.network));
    let tasks = sandboxes
        .iter()
        .filter_map(|sandbox| view.tasks.get_key_value(&TaskId(sandbox.0)));
    let containers = sandboxes
        .iter()
        .filter_map(|sandbox| view.containers.get_key_value(sandbox));
    NodeConfig {
        peers: view.peers.clone(),
        networks: cloned(networks),
        published: cloned(published),
        tasks: cloned(tasks),
        containers: cloned(containers),
        endpoints,
        ..NodeConfig::empty(view.node)
    }
}

fn cloned<'a, K: Ord + Clone + 'a, V: Clone + PartialEq + 'a>(
    entries: impl Iterator<Item = (&'a K, &'a V)>,
) -> Records<K, V> {
    entries
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The endpoints that a sandbox on this host joins.
pub(crate) fn endpoints_of(view: &NodeConfig, sandbox: SandboxId) -> Vec<EndpointId> {
    let task = view.tasks.get(&TaskId(sandbox.0));
    let container = view.containers.get(&sandbox);
    let joints = container.into_iter().flat_map(|it| &it.endpoints);
    let own = task.into_iter().flat_map(|task| &task.endpoints);
    own.copied().chain(joints.map(|joint| joint.id)).collect()
}

/// What of a published port is more than the rules' business.
fn lead(port: &PublishedConfig) -> (NetworkId, PublishMode) {
    (port.network, port.spec.mode)
}
