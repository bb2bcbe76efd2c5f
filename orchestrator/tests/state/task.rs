//! Tasks: where they are placed, when they are replaced, and what agents can say of them.

use std::collections::BTreeMap;

use model::*;

use crate::fixture::{Cluster, content, report, service};

fn with_policy(condition: RestartCondition, delay: u64, max_attempts: u32) -> ServiceSpec {
    let mut spec = service("web", 1, &["net"]);
    spec.task.restart = RestartPolicy {
        condition,
        delay,
        max_attempts,
    };
    spec
}

fn running_on(cluster: &Cluster, service: &str) -> BTreeMap<String, usize> {
    let mut nodes = BTreeMap::new();
    for task in cluster
        .tasks(service)
        .into_iter()
        .filter(|task| task.state == TaskState::Running)
    {
        *nodes.entry(task.node).or_default() += 1;
    }
    nodes
}

fn spread(nodes: &[(&str, usize)]) -> BTreeMap<String, usize> {
    nodes
        .iter()
        .map(|(node, count)| ((*node).to_owned(), *count))
        .collect()
}

#[test]
fn tasks_spread_by_service_first_then_by_load_then_by_node_id() {
    let mut cluster = Cluster::with_network(3);
    cluster.create_service(service("a", 1, &["net"]));
    cluster.converge();
    assert_eq!(running_on(&cluster, "a"), spread(&[("h1", 1)]));
    cluster.create_service(service("b", 4, &["net"]));
    cluster.converge();
    assert_eq!(
        running_on(&cluster, "b"),
        spread(&[("h1", 1), ("h2", 2), ("h3", 1)])
    );
}

#[test]
fn without_a_ready_and_active_node_tasks_wait_and_say_so() {
    let mut cluster = Cluster::with_network(2);
    cluster.set_status(1, NodeStatus::Unknown);
    cluster.set_availability(2, Availability::Pause);
    cluster.create_service(service("web", 1, &["net"]));
    cluster.settle();
    let task = cluster.task("web.1");
    assert_eq!(task.state, TaskState::Pending);
    assert!(
        task.message.contains("no node is ready and active"),
        "{}",
        task.message
    );
    cluster.set_availability(2, Availability::Active);
    cluster.settle();
    assert_eq!(cluster.task("web.1").node, "h2");
}

#[test]
fn tasks_of_a_lost_node_are_replaced_with_their_addresses() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(with_policy(RestartCondition::None, 60_000, 0));
    cluster.converge();
    let before = cluster.task("web.1");
    cluster.set_status(1, NodeStatus::Down);
    cluster.converge();
    let after = cluster.task("web.1");
    assert_eq!(
        (after.node.as_str(), after.state),
        ("h2", TaskState::Running)
    );
    assert_eq!(after.addresses, before.addresses);
    let old = cluster.task(&before.id.to_string());
    assert_eq!(
        (old.state, old.desired_state),
        (TaskState::Running, TaskState::Shutdown)
    );
    cluster.set_status(1, NodeStatus::Ready);
    cluster.converge();
    assert_eq!(
        cluster.task(&before.id.to_string()).state,
        TaskState::Shutdown
    );
    assert_eq!(running_on(&cluster, "web"), spread(&[("h2", 1)]));
}

#[test]
fn a_removed_nodes_tasks_are_orphaned_and_replaced() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(service("web", 2, &["net"]));
    cluster.converge();
    cluster.apply(Command::Node(NodeCommand::Remove { node: NodeId(2) }));
    cluster.converge();
    assert_eq!(running_on(&cluster, "web"), spread(&[("h1", 2)]));
    assert!(
        cluster
            .tasks("web")
            .iter()
            .any(|task| task.state == TaskState::Orphaned)
    );
}

#[test]
fn a_successor_waits_for_its_predecessor_on_a_drained_node() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    let old = cluster.task("web.1");
    cluster.set_availability(1, Availability::Drain);
    cluster.drain();
    let new = cluster.task("web.1");
    assert_eq!((new.state, new.node_id), (TaskState::Pending, None));
    let early = Command::Task(TaskCommand::Assign {
        task: new.id,
        node: NodeId(2),
    });
    assert_eq!(cluster.refuse(early).kind, Kind::Precondition);
    cluster.word(&old, TaskState::Shutdown);
    cluster.settle();
    assert_eq!(cluster.task("web.1").node, "h2");
}

#[test]
fn a_paused_node_keeps_its_tasks() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    cluster.set_availability(1, Availability::Pause);
    assert!(!cluster.settle());
}

#[test]
fn a_task_that_ended_is_started_again_after_its_delay() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(with_policy(RestartCondition::Any, 5_000, 0));
    cluster.converge();
    let first = cluster.task("web.1");
    cluster.word(&first, TaskState::Complete);
    cluster.now += 4_999;
    assert!(!cluster.settle());
    cluster.now += 1;
    cluster.converge();
    let second = cluster.task("web.1");
    assert_ne!(second.id, first.id);
    assert_eq!(
        (second.state, second.addresses),
        (TaskState::Running, first.addresses)
    );
    assert_eq!(
        cluster.task(&first.id.to_string()).desired_state,
        TaskState::Shutdown
    );
}

#[test]
fn a_leader_with_a_slow_clock_delays_no_restart() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(with_policy(RestartCondition::Any, 5_000, 0));
    cluster.converge();
    let ended = cluster.task("web.1");
    cluster.word(&ended, TaskState::Failed);
    cluster.now -= 1;
    cluster.converge();
    assert_ne!(cluster.task("web.1").id, ended.id);
}

#[test]
fn the_restart_condition_decides_which_ends_are_followed() {
    use {RestartCondition::*, TaskState::*};
    for (condition, end, restarts) in [
        (Any, Complete, true),
        (Any, Failed, true),
        (OnFailure, Complete, false),
        (OnFailure, Failed, true),
        (OnFailure, Rejected, true),
        (None, Complete, false),
        (None, Failed, false),
        (None, Rejected, false),
    ] {
        let mut cluster = Cluster::with_network(1);
        cluster.create_service(with_policy(condition, 0, 0));
        cluster.converge();
        let task = cluster.task("web.1");
        cluster.word(&task, end);
        assert_eq!(cluster.settle(), restarts, "{condition:?} {end}");
    }
}

#[test]
fn a_slot_gets_no_more_restarts_than_its_policy_allows() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(with_policy(RestartCondition::Any, 0, 2));
    cluster.converge();
    cluster.set_status(1, NodeStatus::Down);
    cluster.converge();
    for restarts in [true, true, false] {
        let task = cluster.task("web.1");
        cluster.word(&task, TaskState::Failed);
        assert_eq!(cluster.settle(), restarts, "a lost node costs no attempt");
        cluster.converge();
    }
}

#[test]
fn five_ended_runs_of_a_slot_are_kept() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(with_policy(RestartCondition::Any, 0, 0));
    for _ in 0..9 {
        cluster.converge();
        let task = cluster.task("web.1");
        cluster.word(&task, TaskState::Failed);
    }
    cluster.converge();
    let tasks = cluster.tasks("web");
    assert_eq!(tasks.len(), 6);
    assert_eq!(tasks[0].state, TaskState::Running, "newest first");
}

#[test]
fn a_node_that_rejects_a_task_is_not_chosen_again_and_again() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(with_policy(RestartCondition::Any, 0, 0));
    cluster.settle();
    let task = cluster.task("web.1");
    assert_eq!(task.node, "h1");
    cluster.word(&task, TaskState::Rejected);
    cluster.settle();
    assert_eq!(cluster.task("web.1").node, "h2");
}

#[test]
fn states_never_move_back_and_ended_tasks_stay_ended() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(with_policy(RestartCondition::None, 0, 0));
    cluster.converge();
    let task = cluster.task("web.1");
    cluster.now += 10;
    for state in [
        TaskState::New,
        TaskState::Pending,
        TaskState::Starting,
        TaskState::Running,
    ] {
        cluster.word(&task, state);
        let after = cluster.task("web.1");
        assert_eq!((after.state, after.since), (TaskState::Running, task.since));
    }
    cluster.report(
        2,
        0,
        vec![
            report(task.id, TaskState::Failed),
            report(TaskId(1), TaskState::Running),
        ],
    );
    assert_eq!(
        cluster.task("web.1").state,
        TaskState::Running,
        "another node's word is not heard"
    );
    cluster.word(&task, TaskState::Complete);
    cluster.word(&task, TaskState::Failed);
    let after = cluster.task("web.1");
    assert_eq!(
        (after.state, after.since),
        (TaskState::Complete, cluster.now)
    );
}

#[test]
fn a_report_that_says_nothing_new_changes_nothing() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    let applied = cluster.state.nodes()[&NodeId(1)].applied;
    let before = content(&cluster.state);
    let said = vec![report(cluster.task("web.1").id, TaskState::Running)];
    cluster.now += 10;
    cluster.report(1, applied, said);
    assert_eq!(content(&cluster.state), before);
}

#[test]
fn the_target_of_a_task_only_moves_forward() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    let task = cluster.task("web.1").id;
    let set = |desired| Command::Task(TaskCommand::SetDesired { task, desired });
    assert_eq!(
        cluster.refuse(set(TaskState::Remove)).kind,
        Kind::Precondition,
        "its slot is wanted"
    );
    assert_eq!(
        cluster.refuse(set(TaskState::Shutdown)).kind,
        Kind::Precondition,
        "it takes traffic"
    );
    cluster.apply(Command::Task(TaskCommand::Replace {
        task: "web.1".to_owned(),
    }));
    cluster.drain();
    for desired in [TaskState::Running, TaskState::Shutdown, TaskState::Failed] {
        assert_eq!(cluster.refuse(set(desired)).kind, Kind::Precondition);
    }
}

#[test]
fn commands_of_an_outdated_step_are_refused() {
    let mut cluster = Cluster::with_network(1);
    let web = cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    let task = cluster.task("web.1").id;
    for command in [
        Command::Task(TaskCommand::Create {
            service: web,
            slot: 1,
        }),
        Command::Task(TaskCommand::Create {
            service: web,
            slot: 2,
        }),
        Command::Task(TaskCommand::Assign {
            task,
            node: NodeId(1),
        }),
        Command::Task(TaskCommand::Assign {
            task: TaskId(7),
            node: NodeId(1),
        }),
        Command::Task(TaskCommand::Remove { task }),
        Command::Service(ServiceCommand::Purge { service: web }),
        Command::Service(ServiceCommand::ReleaseSlot {
            service: web,
            slot: 1,
        }),
    ] {
        assert_eq!(cluster.refuse(command).kind, Kind::Precondition);
    }
}

#[test]
fn a_task_scaled_away_before_it_had_a_node_is_gone_at_once() {
    let mut cluster = Cluster::with_network(1);
    cluster.set_availability(1, Availability::Pause);
    cluster.create_service(service("web", 2, &["net"]));
    cluster.settle();
    cluster.scale("web", 0);
    cluster.settle();
    assert!(cluster.tasks("web").is_empty());
    assert_eq!(
        cluster.state.ledger().leases().count(),
        2,
        "gateway and vip"
    );
}

#[test]
fn a_waiting_task_of_a_removed_service_is_not_placed() {
    let mut cluster = Cluster::with_network(1);
    cluster.set_availability(1, Availability::Pause);
    cluster.create_service(service("web", 1, &["net"]));
    cluster.settle();
    let task = cluster.task("web.1").id;
    cluster.set_availability(1, Availability::Active);
    cluster.remove_service("web");
    let commands = cluster.step();
    assert_eq!(
        commands,
        [Command::Task(TaskCommand::SetDesired {
            task,
            desired: TaskState::Remove
        })]
    );
    assert_eq!(
        cluster
            .refuse(Command::Task(TaskCommand::Assign {
                task,
                node: NodeId(1)
            }))
            .kind,
        Kind::Precondition
    );
    cluster.settle();
    assert!(
        cluster
            .state
            .answer(None, &Query::Services)
            .is_ok_and(|answer| answer == Answer::Services(vec![]))
    );
}
