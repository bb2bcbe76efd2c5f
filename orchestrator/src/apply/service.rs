//! Commands about services: create with the addresses of all slots, update, roll back, remove,
//! release leases.

use std::collections::BTreeMap;

use ipam::Owner;
use model::{
    Driver, EndpointMode, Kind, Level, Millis, NetworkAttachment, NetworkId, NetworkSpec, Outcome,
    PublishMode, PublishSpec, Refusal, Response, Runtime, Service, ServiceId, ServiceSpec,
};

use crate::{
    apply::network,
    claims::Claims,
    look::Look,
    ports,
    record::{ServiceRecord, Slot},
    state::{State, outdated},
    update, validate,
};

pub(super) fn create(state: &mut State, now: Millis, mut spec: ServiceSpec) -> Response {
    validate::service(&spec, state.level)?;
    name_root(&mut spec, state.level);
    let name = spec.name.to_ascii_lowercase();
    let mut named = state.derived.services.named(&name);
    if let Some(other) = named.find_map(|id| state.services.get(id)) {
        return Err(taken(&other.service));
    }
    if !spec.publish.is_empty()
        && spec.networks.is_empty()
        && state.find_network(ports::INGRESS).is_err()
    {
        return create_with_ingress(state, now, spec);
    }
    let networks = resolve_networks(state, &spec)?;
    claim(state, &spec, &networks)?;
    ports::check(state, &spec, &networks, None)?;
    let id = ServiceId(state.peek_id("service"));
    let vip = (spec.endpoint_mode == EndpointMode::Vip).then_some(Owner::Vip(id));
    let owners: Vec<Owner> = vip
        .into_iter()
        .chain((1..=spec.replicas).map(|slot| Owner::Slot(id, slot)))
        .collect();
    state.ledger.allocate(&networks, &owners)?;
    state.use_id("service");
    let vips_on = |network: &NetworkId| {
        (
            *network,
            state.ledger.addresses(*network, Owner::Vip(id)).to_vec(),
        )
    };
    let vips = networks.iter().map(vips_on).collect();
    let slots = (1..=spec.replicas)
        .map(|slot| (slot, Slot::default()))
        .collect();
    let service = Service {
        id,
        spec,
        networks,
        vips,
        removing: false,
        created: now,
    };
    state
        .services
        .insert(id, ServiceRecord::new(service, slots, state.index));
    Ok(Outcome::Service(id))
}

/// Says which root directory the tasks have that name none. Services from before say none, and keep
/// what that meant.
fn name_root(spec: &mut ServiceSpec, level: Level) {
    let Runtime::Exec { argv, rootfs, .. } = &mut spec.task.runtime;
    if level >= Level::KEYS && !argv.is_empty() && rootfs.is_none() {
        *rootfs = Some(Runtime::MINIMAL_ROOT.into());
    }
}

/// Creates a service together with the network `ingress` for its published ports, if it names no
/// network. Both or neither.
fn create_with_ingress(state: &mut State, now: Millis, spec: ServiceSpec) -> Response {
    let mut draft = state.clone();
    let ingress = NetworkSpec {
        name: ports::INGRESS.to_owned(),
        driver: Driver::Overlay,
        subnets: Vec::new(),
        internal: false,
        encrypted: false,
        attachable: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    };
    network::create(&mut draft, now, ingress, None)?;
    let outcome = create(&mut draft, now, spec)?;
    *state = draft;
    Ok(outcome)
}

pub(super) fn scale(state: &mut State, service: &str, replicas: u32) -> Response {
    let id = state.find_service(service)?;
    let record = present(&state.services, id)?;
    if record.service.removing {
        return Err(taken(&record.service));
    }
    validate::replicas(&record.service.spec, replicas)?;
    let (index, surge) = (state.index, record.surge);
    hold_slots(state, id, replicas.saturating_add(surge))?;
    if let Some(record) = state.services.get_mut(&id) {
        (record.service.spec.replicas, record.version) = (replicas, index);
    }
    Ok(Outcome::Service(id))
}

/// What the user asks for instead of what there is.
pub(super) struct Change {
    pub(super) spec: ServiceSpec,
    /// The version that it was made from.
    pub(super) version: u64,
    pub(super) replaced: Replaced,
}

/// Which tasks an update replaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaced {
    /// Those that differ from the new spec.
    Outdated,
    All,
}

pub(super) fn update(state: &mut State, service: &str, change: Change) -> Response {
    let id = state.find_service(service)?;
    let record = present(&state.services, id)?;
    let name = &record.service.spec.name;
    if record.service.removing {
        return Err(taken(&record.service));
    }
    if record.version != change.version {
        let cause = format!(
            "service {name:?} has been changed by somebody else since this update was made"
        );
        let next =
            format!("look at it (`swarmctl service inspect {name}`) and give the command again");
        return Err(Refusal::new(Kind::Conflict, cause, next));
    }
    refuse_other(record, &change.spec)?;
    put(state, id, change.spec, change.replaced)
}

/// Swaps the spec and the spec before the last update.
pub(super) fn rollback(state: &mut State, service: &str) -> Response {
    let id = state.find_service(service)?;
    let record = present(&state.services, id)?;
    if record.service.removing {
        return Err(taken(&record.service));
    }
    let name = &record.service.spec.name;
    let Some(previous) = record.previous.clone() else {
        let next = format!("`swarmctl service update {name}` changes it");
        return Err(Refusal::new(
            Kind::Precondition,
            format!("service {name:?} has never been updated"),
            next,
        ));
    };
    put(state, id, previous, Replaced::Outdated)
}

/// Refuses changes of what a service cannot change: networks, endpoint mode, ports with mode=host.
fn refuse_other(record: &ServiceRecord, spec: &ServiceSpec) -> Result<(), Refusal> {
    let old = &record.service.spec;
    let networks = |spec: &ServiceSpec| -> Vec<String> {
        spec.networks
            .iter()
            .map(|attachment| attachment.network.to_ascii_lowercase())
            .collect()
    };
    let what = match () {
        () if old.name != spec.name => "name",
        () if networks(old) != networks(spec) => "networks",
        () if old.external != spec.external => "kind",
        () if old.endpoint_mode != spec.endpoint_mode => "endpoint mode",
        () if !ports_of_hosts(old).eq(ports_of_hosts(spec)) => "published ports with mode=host",
        () if record.service.networks.is_empty() && !spec.publish.is_empty() => {
            let cause = format!(
                "service {:?} is on no network that published ports could lead by",
                old.name
            );
            let next = "make another service with --publish, which gets one, then remove this one";
            return Err(Refusal::new(Kind::Precondition, cause, next));
        }
        () => return Ok(()),
    };
    let cause = format!(
        "the {what} of service {:?} cannot be changed in this version",
        old.name
    );
    Err(Refusal::new(
        Kind::Invalid,
        cause,
        "make another service with it, then remove this one",
    ))
}

/// Ports with mode=host. They decide where tasks may run.
fn ports_of_hosts(spec: &ServiceSpec) -> impl Iterator<Item = &PublishSpec> {
    spec.publish
        .iter()
        .filter(|port| port.mode == PublishMode::Host)
}

/// Whether names, ports or balancing of the service change, whatever its tasks run.
fn is_led_otherwise(old: &ServiceSpec, new: &ServiceSpec) -> bool {
    old.publish != new.publish
        || old.balance != new.balance
        || old.networks != new.networks
        || old.stack != new.stack
        || old.ports != new.ports
}

fn put(state: &mut State, id: ServiceId, mut spec: ServiceSpec, replaced: Replaced) -> Response {
    validate::service(&spec, state.level)?;
    let service = &present(&state.services, id)?.service;
    let Runtime::Exec { rootfs, .. } = &service.spec.task.runtime;
    if rootfs.is_some() {
        name_root(&mut spec, state.level);
    }
    let networks = &service.networks;
    claim(state, &spec, networks)?;
    ports::check(state, &spec, networks, Some(id))?;
    let (index, surge) = (state.index, present(&state.services, id)?.surge);
    hold_slots(state, id, spec.replicas.saturating_add(surge))?;
    if let Some(record) = state.services.get_mut(&id) {
        record.led = if is_led_otherwise(&record.service.spec, &spec) {
            index
        } else {
            record.led
        };
        record.previous = Some(std::mem::replace(&mut record.service.spec, spec));
        (record.version, record.changed, record.paused) = (index, index, None);
        if replaced == Replaced::All {
            record.forced = index;
        }
    }
    Ok(Outcome::Service(id))
}

pub(super) fn pause(state: &mut State, id: ServiceId) -> Response {
    let why = state
        .services
        .get(&id)
        .and_then(|record| update::failure(state, record));
    match state.services.get_mut(&id).zip(why) {
        Some((record, why)) => {
            record.paused = Some(why);
            Ok(Outcome::Service(id))
        }
        None => Err(outdated(format!(
            "no update of service {id} is to be paused"
        ))),
    }
}

pub(super) fn set_surge(state: &mut State, now: Millis, id: ServiceId, slots: u32) -> Response {
    let look = Look::new(state, now);
    let fits = |record: &&ServiceRecord| update::surge(&look, record) == slots;
    let Some(record) = state.services.get(&id).filter(fits) else {
        return Err(outdated(format!(
            "service {id} is not to have {slots} slots of surge now"
        )));
    };
    let last = record.service.spec.replicas.saturating_add(slots);
    hold_slots(state, id, last)?;
    if let Some(record) = state.services.get_mut(&id) {
        record.surge = slots;
    }
    Ok(Outcome::Service(id))
}

/// Makes slots up to this number and leases their addresses. A slot that is still being emptied
/// keeps its lease.
fn hold_slots(state: &mut State, id: ServiceId, last: u32) -> Result<(), Refusal> {
    let record = present(&state.services, id)?;
    // Who has a slot has its lease.
    let new = (1..=last).filter(|slot| !record.slots.contains_key(slot));
    let new: Vec<u32> = new.collect();
    let owners: Vec<Owner> = new.iter().map(|slot| Owner::Slot(id, *slot)).collect();
    state.ledger.allocate(&record.service.networks, &owners)?;
    if let Some(record) = state.services.get_mut(&id) {
        for slot in new {
            record.slots.entry(slot).or_default();
        }
    }
    Ok(())
}

/// Begins to remove a service. `step` does the rest: names go when its tasks are withdrawn, virtual
/// IP and leases when they have stopped.
pub(super) fn remove(state: &mut State, service: &str) -> Response {
    let id = state.find_service(service)?;
    if let Some(record) = state.services.get_mut(&id) {
        record.service.removing = true;
    }
    Ok(Outcome::Service(id))
}

pub(super) fn purge(state: &mut State, id: ServiceId) -> Response {
    let record = present(&state.services, id)?;
    if !record.service.removing || record.task_ids().next().is_some() {
        return Err(outdated(format!(
            "service {id} still has tasks or is not being removed"
        )));
    }
    for network in &record.service.networks {
        state.ledger.release(*network, Owner::Vip(id));
        for slot in record.slots.keys() {
            state.ledger.release(*network, Owner::Slot(id, *slot));
        }
    }
    state.services.remove(&id);
    Ok(Outcome::Done)
}

pub(super) fn release_slot(state: &mut State, id: ServiceId, number: u32) -> Response {
    let record = present(&state.services, id)?;
    let is_empty = record
        .slots
        .get(&number)
        .is_some_and(|slot| slot.tasks.is_empty());
    if record.wants(number) || !is_empty {
        return Err(outdated(format!(
            "slot {number} of service {id} is wanted, has tasks, or is gone"
        )));
    }
    for network in record.service.networks.clone() {
        state.ledger.release(network, Owner::Slot(id, number));
    }
    if let Some(record) = state.services.get_mut(&id) {
        record.slots.remove(&number);
    }
    state.follow_released(id, number);
    Ok(Outcome::Done)
}

/// Refuses a service whose names on one of its networks are another's there. Aliases may be shared;
/// names may not.
fn claim(state: &State, spec: &ServiceSpec, networks: &[NetworkId]) -> Result<(), Refusal> {
    for (network, attachment) in networks.iter().zip(&spec.networks) {
        let claims = Claims::of(spec, &attachment.aliases);
        for rival in state.derived.services.rivals(*network, &claims) {
            let Some(record) = state.services.get(&rival) else {
                continue;
            };
            let other = &record.service;
            if record.service.removing || other.spec.name.eq_ignore_ascii_case(&spec.name) {
                continue;
            }
            for (_, theirs) in Claims::of_service(other).filter(|(on, _)| on == network) {
                if let Some(name) = claims.clash(&theirs) {
                    return Err(claimed(name, &other.spec.name, &attachment.network));
                }
                if let Some((name, stack)) = claims.clash_by_stack(&theirs) {
                    return Err(of_stack(name, stack, &other.spec.name));
                }
            }
        }
    }
    Ok(())
}

fn claimed(name: &str, by: &str, network: &str) -> Refusal {
    let cause = format!("{name:?} means service {by:?} on network {network:?} already");
    let next = format!(
        "use another name or alias, or give both the same alias: aliases may be shared, a \
         service's name may not; `swarmctl service inspect {by}` shows its names"
    );
    Refusal::new(Kind::Conflict, cause, next)
}

/// Tasks of a stack find what is called `NAME.STACK` as `NAME`, before anything else.
fn of_stack(alias: &str, stack: &str, other: &str) -> Refusal {
    let cause = format!(
        "{alias:?} cannot be an alias beside stack {stack:?}: names that end with it are its \
         services'; service {other:?} stands against it"
    );
    let next = "use another alias, another name of the stack, or an alias without the stack's \
                name in a service of the stack";
    Refusal::new(Kind::Conflict, cause, next)
}

fn resolve_networks(state: &State, spec: &ServiceSpec) -> Result<Vec<NetworkId>, Refusal> {
    let mut networks = Vec::new();
    if spec.networks.is_empty() && !spec.publish.is_empty() {
        networks.push(state.find_network(ports::INGRESS)?);
    }
    for NetworkAttachment { network: name, .. } in &spec.networks {
        let id = state.find_network(name)?;
        if networks.contains(&id) {
            let cause = format!("service {:?} names network {name:?} twice", spec.name);
            return Err(Refusal::new(Kind::Invalid, cause, "name each network once"));
        }
        networks.push(id);
    }
    Ok(networks)
}

fn present(
    services: &BTreeMap<ServiceId, ServiceRecord>,
    id: ServiceId,
) -> Result<&ServiceRecord, Refusal> {
    services
        .get(&id)
        .ok_or_else(|| Refusal::not_found("service", &id.to_string(), "swarmctl service ls"))
}

fn taken(service: &Service) -> Refusal {
    let name = &service.spec.name;
    if service.removing {
        let cause = format!("service {name:?} is being removed");
        let next = format!(
            "try again in a moment; `swarmctl service ps {name}` shows what it still waits for"
        );
        return Refusal::new(Kind::Conflict, cause, next);
    }
    let next = format!("use another name, or remove that one first: `swarmctl service rm {name}`");
    Refusal::new(
        Kind::Conflict,
        format!("there already is a service {name:?}"),
        next,
    )
}
