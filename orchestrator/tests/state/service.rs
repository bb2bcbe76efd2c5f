//! Services: their leases, scaling and removal.

use std::path::PathBuf;

use model::*;

use crate::fixture::{Cluster, network, port, service};

fn create(spec: ServiceSpec) -> Command {
    Command::Service(ServiceCommand::Create { spec })
}

fn addresses(cluster: &Cluster, service: &str) -> Vec<String> {
    let alive = cluster
        .tasks(service)
        .into_iter()
        .filter(|task| !task.state.is_terminal());
    alive.map(|task| task.addresses[0].to_string()).collect()
}

#[test]
fn a_service_gets_its_vip_and_all_addresses_at_once() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(service("web", 3, &["net"]));
    let vips: Vec<String> = cluster
        .service("web")
        .status
        .virtual_ips
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(vips, ["10.0.9.2", "fd00:9::2"]);
    cluster.settle();
    assert_eq!(
        addresses(&cluster, "web"),
        ["10.0.9.3", "10.0.9.4", "10.0.9.5"]
    );
    assert_eq!(cluster.state.check(), Vec::<String>::new());
}

#[test]
fn dnsrr_has_no_vip_and_a_service_without_networks_no_address() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(ServiceSpec {
        endpoint_mode: EndpointMode::Dnsrr,
        ..service("rr", 1, &["net"])
    });
    cluster.create_service(service("alone", 2, &[]));
    assert!(cluster.service("rr").status.virtual_ips.is_empty());
    cluster.converge();
    let alone = cluster.service("alone");
    assert_eq!((alone.status.running, alone.status.settled), (2, 2));
}

#[test]
fn a_pool_that_cannot_hold_the_service_refuses_it_whole() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_network(network("small", &["10.0.20.0/29"]));
    assert_eq!(
        cluster
            .refuse(create(service("web", 5, &["net", "small"])))
            .kind,
        Kind::Exhausted
    );
    cluster.create_service(service("web", 4, &["net", "small"]));
    let refusal = cluster.refuse(Command::Service(ServiceCommand::Scale {
        service: "web".to_owned(),
        replicas: 5,
    }));
    assert_eq!(refusal.kind, Kind::Exhausted);
    assert!(
        refusal
            .cause
            .contains("\"small\" has no room in 10.0.20.0/29: 6 of 6"),
        "{refusal}"
    );
}

#[test]
fn senseless_specs_are_refused() {
    let mut cluster = Cluster::with_network(1);
    for name in [
        "",
        "-a",
        "a-",
        "a.b",
        "_a",
        "a_",
        "tasks",
        "Tasks",
        &"x".repeat(64),
    ] {
        assert_eq!(
            cluster.refuse(create(service(name, 1, &[]))).kind,
            Kind::Invalid,
            "{name}"
        );
    }
    let mut before = Cluster::at(Level::DISTINCTIONS, 1);
    let refusal = before.refuse(create(service("a_b", 1, &[])));
    assert!(
        refusal.next.contains("letters, digits and '-',"),
        "{refusal}"
    );
    assert_eq!(
        cluster.refuse(create(service("web", 10_001, &[]))).kind,
        Kind::Invalid
    );
    assert!(
        cluster
            .refuse(create(service("web", 1, &["nowhere"])))
            .next
            .contains("swarmctl network ls")
    );
    assert_eq!(
        cluster
            .refuse(create(service("web", 1, &["net", "NET"])))
            .kind,
        Kind::Invalid
    );
    let mut idle = service("web", 1, &[]);
    idle.task.runtime = Runtime::Exec {
        argv: vec![],
        env: Default::default(),
        rootfs: None,
    };
    assert_eq!(cluster.refuse(create(idle)).kind, Kind::Invalid);
    for (argv, retries) in [(vec![], 1), (vec!["true".to_owned()], 0)] {
        let mut unsure = service("web", 1, &[]);
        unsure.task.health = Some(HealthCheck {
            argv,
            interval: 1,
            timeout: 1,
            retries,
            start_period: 0,
        });
        assert_eq!(cluster.refuse(create(unsure)).kind, Kind::Invalid);
    }
    cluster.create_service(service("web", 1, &[]));
    assert_eq!(
        cluster.refuse(create(service("WEB", 1, &[]))).kind,
        Kind::Conflict
    );
}

fn rootfs(cluster: &Cluster, name: &str) -> Option<PathBuf> {
    let Runtime::Exec { rootfs, .. } = &cluster.service(name).spec.task.runtime;
    rootfs.clone()
}

/// What a service from before says, and what it means, stays.
#[test]
fn new_services_have_the_minimal_root_and_older_ones_the_hosts() {
    let mut cluster = Cluster::at(Level::REACH, 1);
    cluster.create_service(service("old", 1, &[]));
    let mut named = service("named", 1, &[]);
    let Runtime::Exec { rootfs: root, .. } = &mut named.task.runtime;
    *root = Some(Runtime::HOST_ROOT.into());
    let refusal = cluster.refuse(create(named.clone()));
    assert!(refusal.cause.contains("is not absolute"), "{refusal}");

    cluster.raise_to(Level::KEYS);
    cluster.create_service(named);
    cluster.create_service(service("new", 1, &[]));
    let minimal = Some(PathBuf::from(Runtime::MINIMAL_ROOT));
    assert_eq!(rootfs(&cluster, "old"), None);
    assert_eq!(rootfs(&cluster, "named"), Some(Runtime::HOST_ROOT.into()));
    assert_eq!(rootfs(&cluster, "new"), minimal);
    for name in ["old", "new"] {
        let version = cluster.service(name).version;
        cluster.apply(Command::Service(ServiceCommand::Update {
            service: name.to_owned(),
            spec: service(name, 2, &[]),
            version,
            force: false,
        }));
    }
    assert_eq!(rootfs(&cluster, "old"), None);
    assert_eq!(rootfs(&cluster, "new"), minimal);
}

#[test]
fn scaling_down_stops_the_highest_slots_first() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(service("web", 3, &["net"]));
    cluster.converge();
    cluster.scale("web", 1);
    cluster.drain();
    let used = |cluster: &Cluster| cluster.state.ledger().leases().count();
    let desired: Vec<TaskState> = cluster
        .tasks("web")
        .iter()
        .map(|task| task.desired_state)
        .collect();
    assert_eq!(
        desired,
        [TaskState::Running, TaskState::Remove, TaskState::Remove]
    );
    assert_eq!(used(&cluster), 5, "gateway, vip, three slots");
    let early = Command::Service(ServiceCommand::ReleaseSlot {
        service: cluster.service("web").id,
        slot: 3,
    });
    assert_eq!(cluster.refuse(early).kind, Kind::Precondition);
    cluster.converge();
    assert_eq!(cluster.tasks("web").len(), 1);
    assert_eq!(used(&cluster), 3);
}

#[test]
fn a_slot_that_is_wanted_again_while_it_stops_keeps_its_address() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(service("web", 2, &["net"]));
    cluster.converge();
    let before = cluster.task("web.2");
    cluster.scale("web", 1);
    cluster.drain();
    cluster.scale("web", 2);
    cluster.settle();
    let waiting = cluster.task("web.2");
    assert_eq!(
        (waiting.state, &waiting.addresses),
        (TaskState::Pending, &before.addresses)
    );
    assert!(
        waiting.message.contains("last run to stop"),
        "{}",
        waiting.message
    );
    cluster.converge();
    let after = cluster.task("web.2");
    assert_eq!(
        (after.state, after.addresses),
        (TaskState::Running, before.addresses)
    );
    assert_eq!(
        cluster.tasks("web").len(),
        2,
        "what was to be removed is forgotten"
    );
}

#[test]
fn a_scale_down_overtaken_by_a_scale_up_stops_nothing() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(service("web", 2, &["net"]));
    cluster.converge();
    cluster.scale("web", 1);
    let late = cluster.step();
    cluster.scale("web", 2);
    late.into_iter()
        .for_each(|command| assert_eq!(cluster.refuse(command).kind, Kind::Precondition));
}

#[test]
fn a_removed_service_leaves_nothing_and_frees_its_name() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(service("web", 3, &["net"]));
    cluster.converge();
    cluster.remove_service("web");
    cluster.remove_service("web");
    let refusal = cluster.refuse(create(service("web", 1, &["net"])));
    assert!(
        refusal.cause.contains("being removed") && refusal.next.contains("try again"),
        "{refusal}"
    );
    assert_eq!(
        cluster
            .refuse(Command::Service(ServiceCommand::Scale {
                service: "web".to_owned(),
                replicas: 9
            }))
            .kind,
        Kind::Conflict
    );
    cluster.converge();
    assert!(
        cluster
            .state
            .answer(None, &Query::Service("web".to_owned()))
            .is_err()
    );
    assert_eq!(cluster.state.ledger().leases().count(), 1, "the gateway's");
    cluster.create_service(service("web", 1, &["net"]));
}

#[test]
fn a_removed_service_keeps_leases_of_tasks_on_a_lost_node() {
    for returns in [true, false] {
        let mut cluster = Cluster::with_network(2);
        cluster.create_service(service("web", 2, &["net"]));
        cluster.converge();
        cluster.set_status(2, NodeStatus::Down);
        cluster.remove_service("web");
        cluster.converge();
        let left = cluster.tasks("web");
        assert_eq!(left.len(), 1);
        assert!(
            left[0].message.contains("swarmctl node rm h2"),
            "{}",
            left[0].message
        );
        if returns {
            cluster.set_status(2, NodeStatus::Ready);
        } else {
            cluster.apply(Command::Node(NodeCommand::Remove { node: NodeId(2) }));
        }
        cluster.converge();
        assert_eq!(cluster.state.ledger().leases().count(), 1, "the gateway's");
    }
}

#[test]
fn only_balancing_that_a_virtual_ip_can_do_is_taken() {
    let mut cluster = Cluster::with_network(1);
    let with = |endpoint_mode, scheduler, affinity| {
        let balance = Balance {
            scheduler,
            affinity,
        };
        ServiceSpec {
            endpoint_mode,
            balance,
            ..service("web", 1, &["net"])
        }
    };
    for (mode, scheduler, affinity, cause) in [
        (
            EndpointMode::Dnsrr,
            Scheduler::Sh,
            None,
            "no virtual IP that could choose",
        ),
        (
            EndpointMode::Dnsrr,
            Scheduler::Rr,
            Some(60),
            "no virtual IP that could choose",
        ),
        (
            EndpointMode::Vip,
            Scheduler::Rr,
            Some(0),
            "an affinity of 0 s",
        ),
        (
            EndpointMode::Vip,
            Scheduler::Mh,
            Some(86_401),
            "an affinity of 86401 s",
        ),
    ] {
        let refusal = cluster.refuse(create(with(mode, scheduler, affinity)));
        assert!(
            refusal.kind == Kind::Invalid && refusal.cause.contains(cause),
            "{refusal}"
        );
    }
    cluster.create_service(with(EndpointMode::Vip, Scheduler::Mh, Some(86_400)));
    // The same holds for what it is changed to, and what is changed is changed for every host.
    cluster.converge();
    let ServiceInfo { spec, version, .. } = cluster.service("web");
    let update = |balance| {
        let spec = ServiceSpec {
            balance,
            ..spec.clone()
        };
        Command::Service(ServiceCommand::Update {
            service: "web".to_owned(),
            spec,
            version,
            force: false,
        })
    };
    cluster.refuse(update(Balance {
        scheduler: Scheduler::Lc,
        affinity: Some(86_401),
    }));
    let balance = Balance {
        scheduler: Scheduler::Lc,
        affinity: None,
    };
    cluster.apply(update(balance));
    assert_eq!(
        cluster.service("web").status.settled,
        0,
        "the host does not balance so yet"
    );
    let view = cluster.state.view(NodeId(1));
    assert!(
        view.services
            .values()
            .all(|service| service.balance == balance),
        "{:?}",
        view.services
    );
    cluster.agent(1);
    assert_eq!(cluster.service("web").status.settled, 1);
    assert_eq!(cluster.tasks("web").len(), 1, "no task is replaced for it");
}

#[test]
fn a_service_tells_who_is_balanced_otherwise_than_it_asks_for() {
    let mut cluster = Cluster::with_network(2);
    cluster.say_capable(2, &[Capability::Ipvs]);
    let port = port(80, PublishMode::Ingress);
    let mut create = |name: &str, scheduler, publish: &[PublishSpec]| {
        let balance = Balance {
            scheduler,
            affinity: None,
        };
        cluster.create_service(ServiceSpec {
            balance,
            publish: publish.to_vec(),
            ..service(name, 1, &["net"])
        });
    };
    create("turns", Scheduler::Mh, &[]);
    create("counts", Scheduler::Lc, &[]);
    create("shown", Scheduler::Wlc, &[port]);
    let notes = |cluster: &Cluster, name: &str| cluster.service(name).status.notes;
    assert_eq!(notes(&cluster, "turns"), Vec::<String>::new());
    let counts = notes(&cluster, "counts");
    assert!(
        counts.len() == 1 && counts[0].starts_with("clients on h1 are balanced by rr: "),
        "{counts:?}"
    );
    let shown = notes(&cluster, "shown");
    assert!(
        shown[0].starts_with("clients on h1 are balanced by wrr: ") && shown[0].contains("next: "),
        "{shown:?}"
    );
    assert!(
        shown[1].starts_with("callers at its published ports are balanced by wrr: "),
        "{shown:?}"
    );
    cluster.apply(Command::Node(NodeCommand::SetBalancer {
        version: None,
        node: "h2".to_owned(),
        balancer: BalancerKind::Nftables,
    }));
    assert!(notes(&cluster, "counts")[0].starts_with("clients on h1, h2 are"));
    cluster.apply(Command::Node(NodeCommand::SetBalancer {
        version: None,
        node: "h2".to_owned(),
        balancer: BalancerKind::Auto,
    }));
    cluster.say_capable(1, &[Capability::Ipvs]);
    assert_eq!(notes(&cluster, "counts"), Vec::<String>::new());
}
