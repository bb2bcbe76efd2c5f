//! Applies one command to the state: total, deterministic, all or nothing.

mod cluster;
mod container;
mod network;
mod service;
mod task;

pub(crate) use service::hold_slots;

use model::{Command, Entry, Response};

use crate::{drain, keys, state::State, update};

/// Applies a command. A refusal changes nothing.
pub(crate) fn apply(state: &mut State, entry: Entry) -> Response {
    let Entry {
        now,
        chance,
        command,
        ..
    } = entry;
    match command {
        Command::Bootstrap {
            authority,
            node,
            data_path_port,
        } => cluster::bootstrap(state, now, authority, node, data_path_port),
        Command::Admit { node } => cluster::admit(state, now, node),
        Command::SetNodeStatus { node, status } => cluster::set_status(state, node, status),
        Command::SetAvailability { node, availability } => {
            cluster::set_availability(state, &node, availability)
        }
        Command::SetBalancer { node, balancer } => cluster::set_balancer(state, &node, balancer),
        Command::RemoveNode { node } => cluster::remove_node(state, now, node),
        Command::RotateToken { role, secret } => cluster::rotate_token(state, role, secret),
        Command::Report(report) => cluster::report(state, now, report),
        Command::RotateKeys => keys::rotate(state, now, chance),
        Command::AdvanceKeys => keys::advance(state, now),
        Command::CreateNetwork { spec } => network::create(state, now, spec, chance),
        Command::RemoveNetwork { network } => network::remove(state, &network),
        Command::CreateService { spec } => service::create(state, now, spec),
        Command::ScaleService { service, replicas } => service::scale(state, &service, replicas),
        Command::UpdateService {
            service,
            spec,
            version,
            force,
        } => service::update(
            state,
            &service,
            service::Change {
                spec,
                version,
                force,
            },
        ),
        Command::RollbackService { service } => service::rollback(state, &service),
        Command::ReplaceTask { task } => task::replace(state, now, &task),
        Command::RemoveService { service } => service::remove(state, &service),
        Command::PurgeService { service } => service::purge(state, service),
        Command::ReleaseSlot { service, slot } => service::release_slot(state, service, slot),
        Command::AttachContainer { spec } => container::attach(state, now, *spec),
        Command::DetachContainers { keys } => container::detach(state, &keys),
        Command::NameNetwork { network, name } => network::name(state, &network, name),
        Command::CreateTask { service, slot } => task::create(state, now, service, slot),
        Command::AssignTask { task, node } => task::assign(state, now, task, node),
        Command::WithdrawTask { task } => drain::withdraw(state, now, task),
        Command::DrainTask { task } => drain::drain(state, now, task),
        Command::SetSurge { service, slots } => update::set_surge(state, now, service, slots),
        Command::PauseUpdate { service } => update::pause(state, service),
        Command::SetDesired { task, desired } => task::set_desired(state, now, task, desired),
        Command::RemoveTask { task } => task::remove(state, task),
    }
}
