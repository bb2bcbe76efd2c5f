//! What names are derived from (`model::OfferConfig`), and which names exclude each other.

use std::collections::BTreeSet;

use model::{
    Container, Kind, MemberConfig, NetworkId, OfferConfig, Refusal, ServiceSpec, SlotConfig,
    TaskState, name_in_stack,
};

use crate::{
    containers,
    project::{self, KEEPS, TAKES},
    record::{ServiceRecord, TaskRecord},
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
    let addresses = run.map(|run| project::addresses(&run.task, network).to_vec());
    // A wanted slot has a name, also while it has no run.
    let is_named = record.wants(number) || addresses.is_some();
    let slot = SlotConfig {
        named: is_named.then(|| addresses.unwrap_or_default()),
        real_servers: weights(state, record, number)
            .flat_map(|(run, weight)| {
                let addresses = project::addresses(&run.task, network).iter();
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
        .and_then(|slot| project::holding(state, slot))
        .filter(|run| run.task.status.state == TaskState::Running)
        .filter(|run| project::is_reachable(state, &run.task));
    let serving = project::serving(state, record, number);
    let keeping = keeping.map(|run| (run, KEEPS));
    keeping.into_iter().chain(serving.map(|run| (run, TAKES)))
}

/// A container on its network.
pub(crate) fn member(state: &State, container: &Container) -> MemberConfig {
    let traits = &container.traits;
    let own = [&traits.name, traits.short_id()].map(str::to_ascii_lowercase);
    let shared = traits.aliases.iter().chain(&traits.service);
    let shared = shared.map(|name| name.to_ascii_lowercase());
    MemberConfig {
        names: own
            .into_iter()
            .filter(|name| validate::is_name(name))
            .collect(),
        shared: shared.filter(|name| validate::is_name(name)).collect(),
        service: traits
            .service
            .as_ref()
            .map(|name| name.to_ascii_lowercase()),
        addresses: container.addresses.clone(),
        ports: traits.ports.clone(),
        unready: traits.unready,
        reachable: containers::is_reachable(state, container),
    }
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
            own.extend(name_in_stack(&name, &stack).map(|short| format!("{short}.{stack}")));
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
