//! What is answered to which name on which network, and which names exclude each other.
//!
//! A service is `web`, each replica `web.1`, all of them `tasks.web`; its aliases on a network stand beside `web`. In a
//! stack each of these is also `NAME.STACK`, and a service called after its stack, `shop-web`, is `web.shop` as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{Kind, NameConfig, NamedPort, NetworkId, Refusal, ServiceSpec};

use crate::{
    project,
    record::{ServiceRecord, TaskRecord},
    state::State,
};

type Names = BTreeMap<(NetworkId, String), NameConfig>;

/// All names of these networks.
pub(crate) fn of(state: &State, networks: &BTreeSet<NetworkId>) -> Names {
    let mut names = Names::new();
    for record in state.services.values() {
        let service = &record.service;
        for (index, network) in service.networks.iter().enumerate().filter(|(_, network)| networks.contains(network)) {
            let aliases = service.spec.networks.get(index).map_or(&[][..], |attachment| &attachment.aliases);
            let vips = service.vips.get(network).cloned().unwrap_or_default();
            let slots = slots(state, record, *network);
            // Of a service that is being removed names lead to what is not withdrawn yet.
            if service.removing && slots.is_empty() {
                continue;
            }
            On { names: &mut names, network: *network, spec: &service.spec, vips, slots }.add(aliases);
        }
    }
    names
}

/// A service's part in the names of a network.
struct On<'a> {
    names: &'a mut Names,
    network: NetworkId,
    spec: &'a ServiceSpec,
    vips: Vec<IpAddr>,
    /// Where each replica is; no address while it is to have no traffic.
    slots: BTreeMap<u32, Vec<IpAddr>>,
}

impl On<'_> {
    fn add(mut self, aliases: &[String]) {
        let name = self.spec.name.to_ascii_lowercase();
        let others: BTreeSet<String> = aliases.iter().map(|alias| alias.to_ascii_lowercase()).collect();
        self.entry(&name, "", &name);
        others.iter().filter(|other| **other != name).for_each(|other| self.entry(other, "", &name));
        let Some(stack) = self.spec.stack.as_ref().map(|stack| stack.to_ascii_lowercase()) else { return };
        let suffix = format!(".{stack}");
        let inside = others.iter().cloned().chain([name.clone()]).chain(short(&name, &stack));
        for other in inside.collect::<BTreeSet<_>>() {
            self.entry(&other, &suffix, &name);
        }
    }

    /// What `base` leads to, whatever comes behind it; `name` is the service's own.
    fn entry(&mut self, base: &str, suffix: &str, name: &str) {
        let everyone: Vec<IpAddr> = self.slots.values().flatten().copied().collect();
        let placed = self.slots.iter().filter(|(_, addresses)| !addresses.is_empty());
        let tasks: Vec<String> = placed.map(|(number, _)| format!("{name}.{number}")).collect();
        let is_plain = base == name && suffix.is_empty();
        let (addresses, targets) = match (self.vips.is_empty(), is_plain) {
            (true, _) => (everyone.clone(), tasks.clone()),
            (false, true) => (self.vips.clone(), Vec::new()),
            (false, false) => (self.vips.clone(), vec![name.to_owned()]),
        };
        let has_vips = !self.vips.is_empty();
        self.put(format!("{base}{suffix}"), addresses, is_plain && has_vips, targets);
        self.put(format!("tasks.{base}{suffix}"), everyone, false, tasks);
        let is_alias = base != name && suffix.is_empty();
        let slots = std::mem::take(&mut self.slots);
        for (number, addresses) in slots.iter().filter(|_| !is_alias) {
            let targets = if is_plain { Vec::new() } else { vec![format!("{name}.{number}")] };
            self.put(format!("{base}.{number}{suffix}"), addresses.clone(), is_plain, targets);
        }
        self.slots = slots;
    }

    /// Services that share a name share its answer.
    fn put(&mut self, name: String, addresses: Vec<IpAddr>, canonical: bool, targets: Vec<String>) {
        let nothing = || NameConfig::new(Vec::new(), false);
        let record = self.names.entry((self.network, name)).or_insert_with(nothing);
        record.addresses.extend(addresses);
        record.canonical |= canonical;
        record.targets.extend(targets);
        let is_new = |port: &&NamedPort| !record.ports.contains(port);
        let ports: Vec<NamedPort> = self.spec.ports.iter().filter(is_new).cloned().collect();
        record.ports.extend(ports);
    }
}

/// `web` of `shop-web` in the stack `shop`.
fn short(name: &str, stack: &str) -> Option<String> {
    let rest = name.strip_prefix(stack)?.strip_prefix('-')?;
    (!rest.starts_with('-') && !rest.is_empty() && rest != "tasks").then(|| rest.to_owned())
}

/// The addresses of every slot's run that names lead to; empty where a wanted slot has none, for the name exists all the
/// same.
fn slots(state: &State, record: &ServiceRecord, network: NetworkId) -> BTreeMap<u32, Vec<IpAddr>> {
    let slots = record.slots.keys().filter_map(|&number| {
        let run = answering(state, record, number);
        let addresses = run.map(|run| project::addresses(&run.task, network).to_vec());
        (record.wants(number) || addresses.is_some()).then(|| (number, addresses.unwrap_or_default()))
    });
    slots.collect()
}

/// The run that takes traffic; where the user asked for it, one that is still on its way there.
fn answering<'a>(state: &'a State, record: &'a ServiceRecord, number: u32) -> Option<&'a TaskRecord> {
    let serving = project::serving(state, record, number);
    if serving.is_some() || !record.service.spec.publish_not_ready {
        return serving;
    }
    let slot = record.slots.get(&number).filter(|_| record.wants(number))?;
    let is_reachable = |record: &TaskRecord| record.task.node.is_some_and(|node| !state.is_down(node));
    state.records(&slot.tasks).rfind(|record| record.is_wanted() && is_reachable(record))
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
        let mut shared: BTreeSet<String> = aliases.iter().map(|alias| alias.to_ascii_lowercase()).collect();
        if let Some(stack) = spec.stack.as_ref().map(|stack| stack.to_ascii_lowercase()) {
            shared.extend(shared.clone().iter().map(|alias| format!("{alias}.{stack}")));
            own.extend(short(&name, &stack).map(|short| format!("{short}.{stack}")));
            own.insert(format!("{name}.{stack}"));
        }
        shared.retain(|alias| !own.contains(alias));
        Self { own, shared }
    }

    fn clash<'a>(&'a self, other: &'a Claims) -> Option<&'a String> {
        let both = self.own.iter().chain(&self.shared).find(|name| other.own.contains(*name));
        both.or_else(|| self.own.iter().find(|name| other.shared.contains(*name)))
    }
}

/// Refuses a service whose names on one of its networks are another's there. Aliases may be shared; names may not.
pub(crate) fn claim(state: &State, spec: &ServiceSpec, networks: &[NetworkId]) -> Result<(), Refusal> {
    for (network, attachment) in networks.iter().zip(&spec.networks) {
        let claims = Claims::of(spec, &attachment.aliases);
        for record in state.services.values().filter(|record| !record.service.removing) {
            let other = &record.service;
            let Some(index) = other.networks.iter().position(|id| id == network) else { continue };
            let aliases = other.spec.networks.get(index).map_or(&[][..], |attachment| &attachment.aliases);
            let is_itself = other.spec.name.eq_ignore_ascii_case(&spec.name);
            if let Some(name) = claims.clash(&Claims::of(&other.spec, aliases)).filter(|_| !is_itself) {
                return Err(taken(name, &other.spec.name, &attachment.network));
            }
        }
    }
    Ok(())
}

fn taken(name: &str, by: &str, network: &str) -> Refusal {
    let cause = format!("{name:?} means service {by:?} on network {network:?} already");
    let next = format!(
        "use another name or alias, or give both the same alias: aliases may be shared, a service's name may not; \
         `swarmctl service inspect {by}` shows its names"
    );
    Refusal::new(Kind::Conflict, cause, next)
}
