//! Updates and emptied nodes: which tasks are replaced when, and what goes on meanwhile.

use model::*;

use crate::fixture::{Cluster, report, service};

/// `web` with so many replicas on three nodes.
fn cluster(replicas: u32, policy: UpdatePolicy) -> Cluster {
    let mut cluster = Cluster::with_network(3);
    cluster.create_service(ServiceSpec {
        update: policy,
        ..service("web", replicas, &["net"])
    });
    cluster.converge();
    cluster
}

fn policy(parallelism: u32, order: UpdateOrder) -> UpdatePolicy {
    UpdatePolicy {
        parallelism,
        order,
        ..UpdatePolicy::default()
    }
}

fn change(cluster: &Cluster, value: &str, force: bool) -> Command {
    let ServiceInfo {
        mut spec, version, ..
    } = cluster.service("web");
    let Runtime::Exec { env, .. } = &mut spec.task.runtime;
    env.insert("V".to_owned(), value.to_owned());
    Command::Service(ServiceCommand::Update {
        service: "web".to_owned(),
        spec,
        version,
        force,
    })
}

fn update(cluster: &mut Cluster, value: &str) {
    let command = change(cluster, value, false);
    cluster.apply(command);
}

fn is_new(task: &TaskInfo, value: &str) -> bool {
    let Runtime::Exec { env, .. } = &task.spec.runtime;
    env.get("V").is_some_and(|found| found == value)
}

/// How many tasks take traffic, and how many of them run what they are to run.
fn serving(cluster: &Cluster, value: &str) -> (usize, usize) {
    let tasks = cluster.tasks("web");
    let serving = |task: &&TaskInfo| {
        task.state == TaskState::Running
            && task.desired_state == TaskState::Running
            && !task.withdrawn
    };
    let serving: Vec<&TaskInfo> = tasks.iter().filter(serving).collect();
    (
        serving.len(),
        serving.iter().filter(|task| is_new(task, value)).count(),
    )
}

/// Steps and agents, until all is done; the fewest and the most tasks that took traffic at any
/// time.
fn watch(cluster: &mut Cluster, value: &str) -> (usize, usize) {
    let (mut least, mut most) = [serving(cluster, value).0; 2].into();
    for _ in 0..1_000 {
        let commands = cluster.step();
        let is_idle = commands.is_empty();
        for command in commands {
            cluster.apply(command);
            let now = serving(cluster, value).0;
            (least, most) = (least.min(now), most.max(now));
        }
        let service = cluster.service("web");
        if is_idle
            && service.status.update.is_none()
            && service.status.settled == service.spec.replicas
        {
            return (least, most);
        }
        for node in cluster.ready_nodes() {
            cluster.agent(node);
        }
    }
    panic!("not done: {:?}", cluster.service("web").status.update);
}

#[test]
fn stop_first_leaves_all_but_one_batch_serving() {
    let mut cluster = cluster(5, policy(2, UpdateOrder::StopFirst));
    let before: Vec<_> = cluster
        .tasks("web")
        .into_iter()
        .map(|task| (task.slot, task.addresses))
        .collect();
    update(&mut cluster, "1");
    assert_eq!(watch(&mut cluster, "1"), (3, 5));
    assert_eq!(serving(&cluster, "1"), (5, 5));
    let mut after: Vec<_> = cluster
        .tasks("web")
        .into_iter()
        .map(|task| (task.slot, task.addresses))
        .collect();
    after.dedup();
    assert_eq!(after, before);
}

#[test]
fn start_first_never_has_fewer_than_the_replicas() {
    let mut cluster = cluster(5, policy(2, UpdateOrder::StartFirst));
    let leases = cluster.state.ledger().leases().count();
    update(&mut cluster, "1");
    assert_eq!(watch(&mut cluster, "1"), (5, 7));
    cluster.converge();
    assert_eq!(serving(&cluster, "1"), (5, 5));
    assert_eq!(cluster.state.ledger().leases().count(), leases);
    assert!(cluster.tasks("web").iter().all(|task| task.slot <= 5));
}

#[test]
fn a_network_without_room_for_surge_is_updated_one_by_one() {
    let mut cluster = Cluster::with_network(3);
    cluster.create_network(crate::fixture::network("small", &["10.0.20.0/29"]));
    let spec = service("web", 4, &["small"]);
    cluster.create_service(ServiceSpec {
        update: policy(2, UpdateOrder::StartFirst),
        ..spec
    });
    cluster.converge();
    update(&mut cluster, "1");
    assert_eq!(watch(&mut cluster, "1"), (3, 4));
}

#[test]
fn the_next_batch_waits_for_all_hosts_and_for_the_delay() {
    for (delay, knows) in [(5_000, true), (0, false)] {
        let mut cluster = cluster(
            3,
            UpdatePolicy {
                delay,
                ..policy(1, UpdateOrder::StopFirst)
            },
        );
        let old = cluster.task("web.1");
        update(&mut cluster, "1");
        cluster.drain();
        cluster.word(&old, TaskState::Shutdown);
        cluster.settle();
        let new = cluster.task("web.1");
        cluster.word(&new, TaskState::Running);
        (1..=3)
            .filter(|_| knows)
            .for_each(|node| cluster.report(node, cluster.index, Vec::new()));
        cluster.now += 4_999;
        assert!(!cluster.settle());
        cluster.now += 1;
        (1..=3).for_each(|node| cluster.report(node, cluster.index, Vec::new()));
        assert!(cluster.settle());
        assert!(cluster.task("web.2").withdrawn && !cluster.task("web.3").withdrawn);
    }
}

#[test]
fn failing_tasks_pause_an_update_and_rollback_keeps_old_ones() {
    let mut cluster = cluster(3, policy(1, UpdateOrder::StopFirst));
    let untouched: Vec<TaskId> = ["web.2", "web.3"]
        .map(|name| cluster.task(name).id)
        .to_vec();
    update(&mut cluster, "bad");
    for _ in 0..4 {
        cluster.drain();
        for node in 1..=3 {
            let view = cluster.state.view(NodeId(node));
            let stops = view
                .tasks
                .iter()
                .filter(|(_, task)| task.desired > TaskState::Running);
            let stops = stops
                .map(|(id, _)| report(*id, TaskState::Shutdown))
                .collect();
            cluster.report(node, view.generation, stops);
        }
    }
    let failing = cluster.task("web.1");
    assert!(
        is_new(&failing, "bad") && failing.node_id.is_some(),
        "{failing:?}"
    );
    cluster.word(&failing, TaskState::Failed);
    cluster.settle();
    let paused = cluster.service("web").status.update.unwrap();
    assert!(
        paused.paused && paused.message.contains("web.1 failed"),
        "{paused:?}"
    );
    cluster.now += 60_000;
    cluster.converge();
    assert_eq!(
        untouched,
        ["web.2", "web.3"].map(|name| cluster.task(name).id)
    );
    cluster.apply(Command::Service(ServiceCommand::Rollback {
        service: "web".to_owned(),
    }));
    watch(&mut cluster, "bad");
    assert_eq!(serving(&cluster, "bad"), (3, 0));
    assert_eq!(
        untouched,
        ["web.2", "web.3"].map(|name| cluster.task(name).id),
        "they run what they are to run"
    );
}

#[test]
fn with_continue_failing_tasks_hold_nothing_up() {
    let failure = UpdateFailure::Continue;
    let mut cluster = cluster(
        2,
        UpdatePolicy {
            on_failure: failure,
            ..policy(1, UpdateOrder::StopFirst)
        },
    );
    update(&mut cluster, "1");
    for _ in 0..20 {
        cluster.drain();
        for task in cluster
            .tasks("web")
            .into_iter()
            .filter(|task| !task.state.is_terminal())
        {
            let stops = task.desired_state > TaskState::Running;
            let is_failing = is_new(&task, "1") && task.node_id.is_some();
            if stops || is_failing {
                cluster.word(
                    &task,
                    if stops {
                        TaskState::Shutdown
                    } else {
                        TaskState::Failed
                    },
                );
            }
        }
    }
    assert!(
        ["web.1", "web.2"]
            .iter()
            .all(|name| is_new(&cluster.task(name), "1"))
    );
}

#[test]
fn only_what_differs_is_replaced_unless_it_is_forced() {
    let mut cluster = cluster(2, policy(0, UpdateOrder::StopFirst));
    let before = cluster.tasks("web");
    let ServiceInfo {
        mut spec, version, ..
    } = cluster.service("web");
    spec.labels.insert("note".to_owned(), "x".to_owned());
    spec.replicas = 3;
    let web = "web".to_owned();
    cluster.apply(Command::Service(ServiceCommand::Update {
        service: web,
        spec,
        version,
        force: false,
    }));
    cluster.converge();
    assert_eq!(cluster.tasks("web")[..2], before[..]);
    assert_eq!(cluster.service("web").status.running, 3);
    let force = change(&cluster, "", true);
    cluster.apply(force);
    cluster.converge();
    let after = cluster.tasks("web");
    let living = after.iter().filter(|task| task.state == TaskState::Running);
    assert!(
        living
            .clone()
            .all(|task| before.iter().all(|old| old.id != task.id))
    );
    assert_eq!(living.count(), 3);
}

#[test]
fn an_update_of_an_older_version_is_refused() {
    let mut cluster = cluster(1, UpdatePolicy::default());
    let (mine, theirs) = (
        change(&cluster, "mine", false),
        change(&cluster, "theirs", false),
    );
    cluster.apply(theirs);
    let refusal = cluster.refuse(mine);
    assert_eq!(refusal.kind, Kind::Conflict);
    assert!(
        refusal.next.contains("swarmctl service inspect web"),
        "{refusal}"
    );
    let late = change(&cluster, "late", false);
    cluster.scale("web", 2);
    assert_eq!(
        cluster.refuse(late).kind,
        Kind::Conflict,
        "a scaling would be undone"
    );
}

#[test]
fn networks_and_mode_of_a_service_cannot_be_updated() {
    let mut cluster = cluster(1, UpdatePolicy::default());
    let ServiceInfo { spec, version, .. } = cluster.service("web");
    for other in [
        ServiceSpec {
            name: "other".to_owned(),
            ..spec.clone()
        },
        ServiceSpec {
            networks: Vec::new(),
            ..spec.clone()
        },
        ServiceSpec {
            endpoint_mode: EndpointMode::Dnsrr,
            ..spec.clone()
        },
        ServiceSpec {
            replicas: 10_001,
            ..spec
        },
    ] {
        let command = Command::Service(ServiceCommand::Update {
            service: "web".to_owned(),
            spec: other,
            version,
            force: false,
        });
        assert_eq!(cluster.refuse(command).kind, Kind::Invalid);
    }
    let never = Command::Service(ServiceCommand::Rollback {
        service: "web".to_owned(),
    });
    assert!(cluster.refuse(never).cause.contains("never been updated"));
}

#[test]
fn a_node_is_emptied_without_interrupting_a_service() {
    for (order, range) in [
        (UpdateOrder::StopFirst, (2, 3)),
        (UpdateOrder::StartFirst, (3, 4)),
    ] {
        let mut cluster = Cluster::with_network(3);
        (2..=3).for_each(|node| cluster.set_availability(node, Availability::Pause));
        cluster.create_service(ServiceSpec {
            update: policy(1, order),
            ..service("web", 3, &["net"])
        });
        cluster.converge();
        cluster.set_availability(2, Availability::Active);
        cluster.set_availability(1, Availability::Drain);
        let mut seen = (3, 3);
        for _ in 0..100 {
            for command in cluster.step() {
                cluster.apply(command);
                let now = serving(&cluster, "").0;
                seen = (seen.0.min(now), seen.1.max(now));
            }
            for node in 1..=3 {
                cluster.agent(node);
            }
        }
        assert_eq!(seen, range, "{order:?}");
        let tasks = cluster.tasks("web");
        assert!(
            tasks
                .iter()
                .filter(|task| task.state == TaskState::Running)
                .all(|task| task.node == "h2")
        );
    }
}

#[test]
fn draining_moves_the_only_task_and_never_all_at_once() {
    let mut cluster = cluster(1, policy(0, UpdateOrder::StopFirst));
    cluster.set_availability(1, Availability::Drain);
    cluster.converge();
    assert_eq!(cluster.task("web.1").node, "h2");
    cluster.scale("web", 4);
    cluster.converge();
    cluster.set_availability(2, Availability::Drain);
    cluster.set_availability(3, Availability::Drain);
    cluster.settle();
    let tasks = cluster.tasks("web");
    assert_eq!(
        tasks
            .iter()
            .filter(|task| task.withdrawn && !task.state.is_terminal())
            .count(),
        3
    );
}
