//! What is answered to which name on which network, and which names exclude each other.
//!
//! A service is `web`, each replica `web.1`, all of them `tasks.web`; its aliases on a network
//! stand beside `web`. In a stack each of these is also `NAME.STACK`, and a service called after
//! its stack, `shop-web`, is `web.shop` as well. Containers of others have the names that their
//! runtimes give them, as far as no service has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{Container, Kind, NameConfig, NamedPort, NetworkId, Refusal, ServiceSpec};

use crate::{
    containers::{self, Members},
    project,
    record::{ServiceRecord, TaskRecord},
    state::State,
    validate,
};

type Names = BTreeMap<(NetworkId, String), NameConfig>;

/// All names of these networks.
pub(crate) fn of(state: &State, networks: &BTreeSet<NetworkId>, members: &Members<'_>) -> Names {
    let (mut names, services) = (Names::new(), Services::of(state));
    for record in state.services.values() {
        let service = &record.service;
        for (index, network) in service
            .networks
            .iter()
            .enumerate()
            .filter(|(_, network)| networks.contains(network))
        {
            let aliases = service
                .spec
                .networks
                .get(index)
                .map_or(&[][..], |attachment| &attachment.aliases);
            let vips = service.vips.get(network).cloned().unwrap_or_default();
            let slots = slots(state, record, *network);
            // Of a service that is being removed names lead to what is not withdrawn yet.
            if service.removing && slots.is_empty() {
                continue;
            }
            let containers = members.of_service(service, *network).filter(|container| {
                let is_ready = !container.traits.unready || service.spec.publish_not_ready;
                !service.removing && is_ready && containers::is_reachable(state, container)
            });
            let containers = containers
                .map(|container| (services.name_of(container), &container.addresses[..]))
                .collect();
            On {
                names: &mut names,
                network: *network,
                spec: &service.spec,
                vips,
                slots,
                containers,
            }
            .add(aliases);
        }
    }
    for (container, _) in state
        .placed()
        .filter(|(container, _)| networks.contains(&container.network))
    {
        add_container(&mut names, state, &services, container);
    }
    names
}

/// Names of services by network; `true` for a service's own name, `false` for an alias.
struct Services(BTreeMap<(NetworkId, String), bool>);

impl Services {
    fn of(state: &State) -> Self {
        let mut names = BTreeMap::new();
        for service in state.services.values().map(|record| &record.service) {
            for (index, network) in service.networks.iter().enumerate() {
                let aliases = service
                    .spec
                    .networks
                    .get(index)
                    .map_or(&[][..], |attachment| &attachment.aliases);
                for alias in aliases {
                    names
                        .entry((*network, alias.to_ascii_lowercase()))
                        .or_insert(false);
                }
                names.insert((*network, service.spec.name.to_ascii_lowercase()), true);
            }
        }
        Self(names)
    }

    fn has(&self, network: NetworkId, name: &str) -> bool {
        self.0
            .get(&(network, name.to_owned()))
            .is_some_and(|is_own| *is_own)
    }

    /// Names that always lead to this container; its addresses resolve back to the first.
    fn names_of(&self, container: &Container) -> Vec<String> {
        let names =
            [&container.traits.name, container.traits.short_id()].map(str::to_ascii_lowercase);
        let is_free = |name: &String| !self.0.contains_key(&(container.network, name.clone()));
        let mut names: Vec<String> = names
            .into_iter()
            .filter(|name| validate::is_name(name) && is_free(name))
            .collect();
        names.dedup();
        names
    }

    fn name_of(&self, container: &Container) -> Option<String> {
        self.names_of(container).into_iter().next()
    }
}

/// A container's names. Those that others may have too lead to it only while it is ready; so does
/// the name of a service that is not there.
fn add_container(names: &mut Names, state: &State, services: &Services, container: &Container) {
    let network = container.network;
    let is_reachable = containers::is_reachable(state, container);
    let addresses = |leads: bool| {
        if leads {
            container.addresses.clone()
        } else {
            Vec::new()
        }
    };
    let own = services.names_of(container);
    for (place, name) in own.iter().enumerate() {
        let record = NameConfig::new(addresses(is_reachable), place == 0);
        put(
            names,
            network,
            name.clone(),
            NameConfig {
                ports: container.traits.ports.clone(),
                ..record
            },
        );
    }
    let shared = container
        .traits
        .aliases
        .iter()
        .chain(&container.traits.service);
    let shared: BTreeSet<String> = shared.map(|name| name.to_ascii_lowercase()).collect();
    let shared = shared
        .into_iter()
        .filter(|name| validate::is_name(name) && !services.has(network, name));
    for name in shared.filter(|name| !own.contains(name)) {
        let is_led = is_reachable && !container.traits.unready;
        let targets = own
            .first()
            .filter(|_| is_led)
            .cloned()
            .into_iter()
            .collect();
        let ports = if is_led {
            container.traits.ports.clone()
        } else {
            Vec::new()
        };
        put(
            names,
            network,
            name,
            NameConfig {
                addresses: addresses(is_led),
                canonical: false,
                ports,
                targets,
            },
        );
    }
}

/// Those who share a name share its answer.
fn put(names: &mut Names, network: NetworkId, name: String, record: NameConfig) {
    let known = names
        .entry((network, name))
        .or_insert_with(|| NameConfig::new(Vec::new(), false));
    known.addresses.extend(record.addresses);
    known.canonical |= record.canonical;
    known.targets.extend(record.targets);
    let is_new = |port: &NamedPort| !known.ports.contains(port);
    let ports: Vec<NamedPort> = record.ports.into_iter().filter(is_new).collect();
    known.ports.extend(ports);
}

/// A service's part in the names of a network.
struct On<'a> {
    names: &'a mut Names,
    network: NetworkId,
    spec: &'a ServiceSpec,
    vips: Vec<IpAddr>,
    /// Where each replica is; no address while it is to have no traffic.
    slots: BTreeMap<u32, Vec<IpAddr>>,
    /// What names lead to beside: containers of others, each under the name of its own that it may
    /// have.
    containers: Vec<(Option<String>, &'a [IpAddr])>,
}

impl On<'_> {
    fn add(mut self, aliases: &[String]) {
        let name = self.spec.name.to_ascii_lowercase();
        let others: BTreeSet<String> = aliases
            .iter()
            .map(|alias| alias.to_ascii_lowercase())
            .collect();
        self.entry(&name, "", &name);
        others
            .iter()
            .filter(|other| **other != name)
            .for_each(|other| self.entry(other, "", &name));
        let Some(stack) = self
            .spec
            .stack
            .as_ref()
            .map(|stack| stack.to_ascii_lowercase())
        else {
            return;
        };
        let suffix = format!(".{stack}");
        let inside = others
            .iter()
            .cloned()
            .chain([name.clone()])
            .chain(short(&name, &stack));
        for other in inside.collect::<BTreeSet<_>>() {
            self.entry(&other, &suffix, &name);
        }
    }

    /// What `base` leads to, whatever comes behind it; `name` is the service's own.
    fn entry(&mut self, base: &str, suffix: &str, name: &str) {
        let containers = self
            .containers
            .iter()
            .flat_map(|(_, addresses)| addresses.iter());
        let everyone: Vec<IpAddr> = self
            .slots
            .values()
            .flatten()
            .chain(containers)
            .copied()
            .collect();
        let placed = self
            .slots
            .iter()
            .filter(|(_, addresses)| !addresses.is_empty());
        let tasks = placed.map(|(number, _)| format!("{name}.{number}"));
        let tasks: Vec<String> = tasks
            .chain(self.containers.iter().filter_map(|(own, _)| own.clone()))
            .collect();
        let is_plain = base == name && suffix.is_empty();
        let (addresses, targets) = match (self.vips.is_empty(), is_plain) {
            (true, _) => (everyone.clone(), tasks.clone()),
            (false, true) => (self.vips.clone(), Vec::new()),
            (false, false) => (self.vips.clone(), vec![name.to_owned()]),
        };
        let has_vips = !self.vips.is_empty();
        self.put(
            format!("{base}{suffix}"),
            addresses,
            is_plain && has_vips,
            targets,
        );
        self.put(format!("tasks.{base}{suffix}"), everyone, false, tasks);
        let is_alias = base != name && suffix.is_empty();
        let slots = std::mem::take(&mut self.slots);
        for (number, addresses) in slots.iter().filter(|_| !is_alias) {
            let targets = if is_plain {
                Vec::new()
            } else {
                vec![format!("{name}.{number}")]
            };
            self.put(
                format!("{base}.{number}{suffix}"),
                addresses.clone(),
                is_plain,
                targets,
            );
        }
        self.slots = slots;
    }

    fn put(&mut self, name: String, addresses: Vec<IpAddr>, canonical: bool, targets: Vec<String>) {
        let ports = self.spec.ports.clone();
        put(
            self.names,
            self.network,
            name,
            NameConfig {
                addresses,
                canonical,
                ports,
                targets,
            },
        );
    }
}

/// `web` of `shop-web` in the stack `shop`.
fn short(name: &str, stack: &str) -> Option<String> {
    let rest = name.strip_prefix(stack)?.strip_prefix('-')?;
    (!rest.starts_with('-') && !rest.is_empty() && rest != "tasks").then(|| rest.to_owned())
}

/// The addresses of every slot's run that names lead to; empty where a wanted slot has none, for
/// the name exists all the same.
fn slots(state: &State, record: &ServiceRecord, network: NetworkId) -> BTreeMap<u32, Vec<IpAddr>> {
    let slots = record.slots.keys().filter_map(|&number| {
        let run = answering(state, record, number);
        let addresses = run.map(|run| project::addresses(&run.task, network).to_vec());
        (record.wants(number) || addresses.is_some())
            .then(|| (number, addresses.unwrap_or_default()))
    });
    slots.collect()
}

/// The run that takes traffic; where the user asked for it, one that is still on its way there.
fn answering<'a>(
    state: &'a State,
    record: &'a ServiceRecord,
    number: u32,
) -> Option<&'a TaskRecord> {
    let serving = project::serving(state, record, number);
    if serving.is_some() || !record.service.spec.publish_not_ready {
        return serving;
    }
    let slot = record.slots.get(&number).filter(|_| record.wants(number))?;
    let is_reachable =
        |record: &TaskRecord| record.task.node.is_some_and(|node| !state.is_down(node));
    state
        .records(&slot.tasks)
        .rfind(|record| record.is_wanted() && is_reachable(record))
}

/// The names of one service on a network: what nobody else may be called, and what it may share.
struct Claims {
    own: BTreeSet<String>,
    shared: BTreeSet<String>,
}

impl Claims {
    fn of(spec: &ServiceSpec, aliases: &[String]) -> Self {
        let name = spec.name.to_ascii_lowercase();
        let mut own = BTreeSet::from([name.clone()]);
        let mut shared: BTreeSet<String> = aliases
            .iter()
            .map(|alias| alias.to_ascii_lowercase())
            .collect();
        if let Some(stack) = spec.stack.as_ref().map(|stack| stack.to_ascii_lowercase()) {
            shared.extend(
                shared
                    .clone()
                    .iter()
                    .map(|alias| format!("{alias}.{stack}")),
            );
            own.extend(short(&name, &stack).map(|short| format!("{short}.{stack}")));
            own.insert(format!("{name}.{stack}"));
        }
        shared.retain(|alias| !own.contains(alias));
        Self { own, shared }
    }

    fn clash<'a>(&'a self, other: &'a Claims) -> Option<&'a String> {
        let both = self
            .own
            .iter()
            .chain(&self.shared)
            .find(|name| other.own.contains(*name));
        both.or_else(|| self.own.iter().find(|name| other.shared.contains(*name)))
    }
}

/// Refuses a service whose names on one of its networks are another's there. Aliases may be shared;
/// names may not.
pub(crate) fn claim(
    state: &State,
    spec: &ServiceSpec,
    networks: &[NetworkId],
) -> Result<(), Refusal> {
    for (network, attachment) in networks.iter().zip(&spec.networks) {
        let claims = Claims::of(spec, &attachment.aliases);
        for record in state
            .services
            .values()
            .filter(|record| !record.service.removing)
        {
            let other = &record.service;
            let Some(index) = other.networks.iter().position(|id| id == network) else {
                continue;
            };
            let aliases = other
                .spec
                .networks
                .get(index)
                .map_or(&[][..], |attachment| &attachment.aliases);
            let is_itself = other.spec.name.eq_ignore_ascii_case(&spec.name);
            if let Some(name) = claims
                .clash(&Claims::of(&other.spec, aliases))
                .filter(|_| !is_itself)
            {
                return Err(taken(name, &other.spec.name, &attachment.network));
            }
        }
    }
    Ok(())
}

fn taken(name: &str, by: &str, network: &str) -> Refusal {
    let cause = format!("{name:?} means service {by:?} on network {network:?} already");
    let next = format!(
        "use another name or alias, or give both the same alias: aliases may be shared, a \
         service's name may not; `swarmctl service inspect {by}` shows its names"
    );
    Refusal::new(Kind::Conflict, cause, next)
}
