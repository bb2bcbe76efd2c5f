//! What names are derived from (`model::OfferConfig`).

use model::{Container, KEEPS, MemberConfig, NetworkId, OfferConfig, SlotConfig, TAKES, TaskState};

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
        reachable: !state.is_down(container.key.node),
    }
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
