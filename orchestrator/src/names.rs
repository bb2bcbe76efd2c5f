//! What names are derived from (`model::OfferConfig`).

use std::collections::BTreeSet;

use model::{
    Container, DnsName, Failure, KEEPS, Kind, Level, MemberConfig, NetworkId, OfferConfig,
    SlotConfig, TAKES, TaskState,
    dns_name::{self, Holder, Use},
};

use crate::{
    record::{ServiceRecord, TaskRecord},
    slots,
    state::State,
    validate,
};

/// A service on one of its networks.
pub(crate) fn offer(record: &ServiceRecord, network: NetworkId) -> OfferConfig {
    let service = &record.service;
    let place = service.networks.iter().position(|id| *id == network);
    let attachment = place.and_then(|place| service.spec.networks.get(place));
    OfferConfig {
        name: service.spec.name.clone(),
        stack: service.spec.stack.clone(),
        aliases: attachment.map_or_else(Vec::new, |attachment| attachment.aliases.clone()),
        ports: service.spec.ports.clone(),
        vips: service.vips.get(&network).cloned().unwrap_or_default(),
        balance: service.spec.balance,
        removing: service.removing,
        publish_not_ready: service.spec.publish_not_ready,
    }
}

/// A slot on one of its service's networks; none where nothing leads to it.
pub(crate) fn slot(
    state: &State,
    record: &ServiceRecord,
    number: u32,
    network: NetworkId,
) -> Option<SlotConfig> {
    let run = answering(state, record, number);
    let addresses = run.map(|run| slots::addresses(&run.task, network).to_vec());
    // A wanted slot has a name, also while it has no run.
    let is_named = record.wants(number) || addresses.is_some();
    let slot = SlotConfig {
        named: is_named.then(|| addresses.unwrap_or_default()),
        real_servers: weights(state, record, number)
            .flat_map(|(run, weight)| {
                let addresses = slots::addresses(&run.task, network).iter();
                addresses.map(move |address| (*address, weight))
            })
            .collect(),
    };
    (slot != SlotConfig::default()).then_some(slot)
}

/// The runs of a slot that are real servers, with weights: a withdrawn one keeps its connections.
pub(crate) fn weights<'a>(
    state: &'a State,
    record: &'a ServiceRecord,
    number: u32,
) -> impl Iterator<Item = (&'a TaskRecord, u16)> {
    let slot = record.slots.get(&number);
    let keeping = slot
        .and_then(|slot| slots::holding(state, slot))
        .filter(|run| run.task.status.state == TaskState::Running)
        .filter(|run| slots::is_reachable(state, &run.task));
    let serving = slots::serving(state, record, number);
    let keeping = keeping.map(|run| (run, KEEPS));
    keeping.into_iter().chain(serving.map(|run| (run, TAKES)))
}

/// A container on its network.
pub(crate) fn member(state: &State, container: &Container) -> MemberConfig {
    let traits = &container.traits;
    let own = [traits.name.as_str(), traits.short_id()];
    let shared = traits.aliases.iter().chain(&traits.service);
    MemberConfig {
        names: own
            .into_iter()
            .filter_map(|name| container_name(state.level, name))
            .collect(),
        shared: shared
            .filter_map(|name| container_name(state.level, name))
            .collect(),
        service: traits
            .service
            .as_ref()
            .map(|name| name.to_ascii_lowercase()),
        addresses: container.addresses.clone(),
        ports: traits.ports.clone(),
        unready: traits.unready,
        reachable: !state.is_down(container.key.node),
    }
}

/// What a container is called where its runtime gives it this name. [`unresolved`] tells of those
/// that it is not called by.
fn container_name(level: Level, text: &str) -> Option<String> {
    if level < Level::COMPOUNDS {
        let name = text.to_ascii_lowercase();
        return validate::is_name(&name).then_some(name);
    }
    DnsName::parse(text)
        .ok()
        .map(|name| name.as_str().to_owned())
}

/// The names of a container that do not lead to it on its network, and why.
pub(crate) fn unresolved(state: &State, container: &Container) -> Vec<Failure> {
    if state.level < Level::COMPOUNDS || container.sandbox.is_none() {
        return Vec::new();
    }
    let traits = &container.traits;
    let own = Some(&traits.name).filter(|name| !name.is_empty());
    let own = own.map(|name| (name, Use::Own));
    let served = traits.service.as_ref().map(|name| dns_name::normal(name));
    // It leads there by the service.
    let is_served = |alias: &&String| served.as_ref() == Some(&dns_name::normal(alias));
    let shared = traits.aliases.iter().filter(|alias| !is_served(alias));
    let shared = shared
        .chain(&traits.service)
        .map(|name| (name, Use::Shared));
    let mut told = BTreeSet::new();
    let names = own.into_iter().chain(shared);
    let mut names = names.filter(|(name, _)| told.insert(dns_name::normal(name)));
    let mut found = Vec::new();
    for (text, by) in &mut names {
        found.extend(why_unresolved(state, container, text, by));
    }
    found
}

fn why_unresolved(state: &State, container: &Container, text: &str, by: Use) -> Option<Failure> {
    let about = format!("container {}", container.name());
    let network = state.networks.get(&container.network)?;
    let network = &network.spec.name;
    let name = match DnsName::parse(text) {
        Ok(name) => name,
        Err(error) => {
            let cause = format!("a name of it does not resolve on network {network:?}: ");
            let why = Failure::new(Kind::Invalid, cause + &error.cause, error.next);
            return Some(why.about(about));
        }
    };
    let services = &state.derived.services;
    let (holder, service) = services.holder(container.network, name.as_str())?;
    let is_served = container.traits.service.as_deref() == Some(text);
    if is_served || dns_name::is_free(Some(holder), by) {
        return None;
    }
    let service = &state.services.get(&service)?.service.spec;
    let whose = match holder {
        Holder::Service => format!("service {:?} is called so", service.name),
        Holder::Alias => format!("it is an alias of service {:?}", service.name),
        Holder::Stack => format!(
            "it is of stack {:?}",
            service.stack.as_deref().unwrap_or("")
        ),
    };
    let cause = format!("{text:?} does not lead to it on network {network:?}: {whose}");
    let next = "call the container otherwise, or the service; `netd.service=NAME` makes a \
                container serve a service";
    Some(Failure::new(Kind::Conflict, cause, next).about(about))
}

/// The run that takes traffic; where the user asked for it, one that is still on its way there.
fn answering<'a>(
    state: &'a State,
    record: &'a ServiceRecord,
    number: u32,
) -> Option<&'a TaskRecord> {
    let serving = slots::serving(state, record, number);
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
