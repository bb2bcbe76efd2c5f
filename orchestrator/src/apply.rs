//! Applies one command to the state: total, deterministic, all or nothing.

mod addresses;
mod cluster;
mod container;
mod network;
mod service;
mod task;

use model::{
    ClusterCommand, Command, ContainerCommand, Entry, EpochKey, KeysCommand, Millis,
    NetworkCommand, NodeCommand, Response, ServiceCommand, TaskCommand,
};

use crate::{keys, state::State};

/// Applies a command. A refusal changes nothing.
pub(crate) fn apply(state: &mut State, entry: Entry) -> Response {
    let Entry { now, chance, .. } = entry;
    match entry.command {
        Command::Cluster(command) => apply_cluster(state, now, command),
        Command::Node(command) => apply_node(state, now, chance, command),
        Command::Keys(command) => apply_keys(state, now, chance, command),
        Command::Network(command) => apply_network(state, now, chance, command),
        Command::Service(command) => apply_service(state, now, command),
        Command::Task(command) => apply_task(state, now, command),
        Command::Container(command) => apply_container(state, now, command),
    }
}

fn apply_cluster(state: &mut State, now: Millis, command: ClusterCommand) -> Response {
    match command {
        ClusterCommand::Bootstrap {
            authority,
            node,
            data_path_port,
        } => cluster::bootstrap(state, now, authority, node, data_path_port),
        ClusterCommand::RotateToken { role, secret } => cluster::rotate_token(state, role, secret),
        ClusterCommand::RaiseLevel { level } => cluster::raise_level(state, level),
    }
}

fn apply_node(
    state: &mut State,
    now: Millis,
    chance: Option<EpochKey>,
    command: NodeCommand,
) -> Response {
    match command {
        NodeCommand::Admit { node } => cluster::admit(state, now, node),
        NodeCommand::SetKey { node, key } => cluster::set_key(state, node, key),
        NodeCommand::SetStatus { node, status } => cluster::set_status(state, node, status),
        NodeCommand::SetAvailability {
            node,
            availability,
            version,
        } => cluster::set_availability(state, &node, version, availability),
        NodeCommand::SetBalancer {
            node,
            balancer,
            version,
        } => cluster::set_balancer(state, &node, version, balancer),
        NodeCommand::Remove { node } => cluster::remove_node(state, now, node, chance),
        NodeCommand::Report(report) => cluster::report(state, now, report),
    }
}

fn apply_keys(
    state: &mut State,
    now: Millis,
    chance: Option<EpochKey>,
    command: KeysCommand,
) -> Response {
    match command {
        KeysCommand::Rotate => keys::rotate(state, now, chance),
        KeysCommand::Advance => keys::advance(state, now),
    }
}

fn apply_network(
    state: &mut State,
    now: Millis,
    chance: Option<EpochKey>,
    command: NetworkCommand,
) -> Response {
    match command {
        NetworkCommand::Create { spec } => network::create(state, now, spec, chance),
        NetworkCommand::Remove { network } => network::remove(state, &network),
        NetworkCommand::Name { network, name } => network::name(state, &network, name),
        NetworkCommand::Reach {
            network,
            hosts,
            expose,
            conceal,
        } => network::reach(
            state,
            &network,
            network::Reached {
                hosts,
                expose,
                conceal,
            },
        ),
    }
}

fn apply_service(state: &mut State, now: Millis, command: ServiceCommand) -> Response {
    match command {
        ServiceCommand::Create { spec } => service::create(state, now, spec),
        ServiceCommand::Scale { service, replicas } => service::scale(state, &service, replicas),
        ServiceCommand::Update {
            service,
            spec,
            version,
            force,
        } => {
            let replaced = if force {
                service::Replaced::All
            } else {
                service::Replaced::Outdated
            };
            let change = service::Change {
                spec,
                version,
                replaced,
            };
            service::update(state, &service, change)
        }
        ServiceCommand::Rollback { service } => service::rollback(state, &service),
        ServiceCommand::Remove { service } => service::remove(state, &service),
        ServiceCommand::SetSurge { service, slots } => {
            service::set_surge(state, now, service, slots)
        }
        ServiceCommand::PauseUpdate { service } => service::pause(state, service),
        ServiceCommand::Purge { service } => service::purge(state, service),
        ServiceCommand::ReleaseSlot { service, slot } => {
            service::release_slot(state, service, slot)
        }
    }
}

fn apply_task(state: &mut State, now: Millis, command: TaskCommand) -> Response {
    match command {
        TaskCommand::Replace { task } => task::replace(state, now, &task),
        TaskCommand::Create { service, slot } => task::create(state, now, service, slot),
        TaskCommand::Assign { task, node } => task::assign(state, now, task, node),
        TaskCommand::Withdraw { task } => task::withdraw(state, now, task),
        TaskCommand::Drain { task } => task::drain(state, now, task),
        TaskCommand::SetDesired { task, desired } => task::set_desired(state, now, task, desired),
        TaskCommand::Remove { task } => task::remove(state, task),
    }
}

fn apply_container(state: &mut State, now: Millis, command: ContainerCommand) -> Response {
    match command {
        ContainerCommand::Attach { spec } => container::attach(state, now, *spec),
        ContainerCommand::Detach { keys } => container::detach(state, &keys),
    }
}
