//! Random users, crashes and lost hosts against honest agents: what must hold after every single
//! command, and what the cluster comes to once all is well again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::*;
use orchestrator::State;
use proptest::prelude::*;

use crate::fixture::{Cluster, key, network, node, report, sandbox, service, spec};

const NODES: u64 = 4;
const NETWORKS: [(&str, &[&str]); 3] = [
    ("net", &["10.0.9.0/24", "fd00:9::/64"]),
    ("small", &["10.0.8.0/29"]),
    ("auto", &[]),
];
const SERVICES: [&str; 3] = ["web", "db", "shell"];
const CONTAINERS: [&str; 4] = ["c1", "c2", "c3", "c4"];

#[derive(Clone, Debug)]
enum Event {
    CreateNetwork(usize),
    RemoveNetwork(usize),
    /// Hosts may call there, or not; so may others, or not.
    Reach(usize, bool, bool),
    CreateService {
        name: usize,
        replicas: u32,
        networks: Vec<usize>,
        mode: EndpointMode,
    },
    Scale(usize, u32),
    RemoveService(usize),
    /// Its tasks are to run something else, or the same anew.
    Update(usize, u8, UpdatePolicy, bool),
    Rollback(usize),
    ReplaceTask(usize, u32),
    Status(u64, NodeStatus),
    Availability(u64, Availability),
    RemoveNode(u64),
    Admit(u64),
    /// One node's agent catches up with its view; so many connections are left to what drains.
    Agent(u64, u32),
    /// One of the tasks on this node ends by itself.
    End(u64, prop::sample::Index, TaskState),
    Pass(Millis),
    /// Another manager leads, or somebody sets its clock: by so many milliseconds.
    Jump(i64),
    Attach(Box<Attach>),
    Detach(u64, usize),
    /// Some of what `step` asks for is applied; the rest is lost with the leader.
    Step(usize),
    /// The manager starts again from a snapshot.
    Restart,
    /// Every member knows the next level.
    Raise,
}

/// What a runtime asks for.
#[derive(Clone, Debug)]
struct Attach {
    node: u64,
    id: usize,
    net: usize,
    /// The last byte of the IPv4 address that it is to have.
    exact: Option<u8>,
    /// Of IPv4 and of IPv6.
    wanted: (bool, bool),
    /// In one of two namespaces that its path has led to.
    sandbox: Option<bool>,
    left: bool,
    service: Option<usize>,
    unready: bool,
    port: Option<u16>,
}

impl Attach {
    fn any() -> impl Strategy<Value = Self> {
        let who = (1..=NODES, 0..CONTAINERS.len(), 0..NETWORKS.len());
        let wish = (prop::option::of(1..9u8), any::<(bool, bool)>());
        let place = (prop::option::of(any::<bool>()), prop::bool::weighted(0.1));
        let traits = (
            prop::option::of(0..SERVICES.len()),
            any::<bool>(),
            prop::option::of(80..83u16),
        );
        (who, wish, place, traits).prop_map(|(who, wish, place, traits)| Self {
            node: who.0,
            id: who.1,
            net: who.2,
            exact: wish.0,
            wanted: wish.1,
            sandbox: place.0,
            left: place.1,
            service: traits.0,
            unready: traits.1,
            port: traits.2,
        })
    }

    fn command(self) -> Command {
        let id = CONTAINERS[self.id];
        let net = [9, 8, 0][self.net];
        let exact = self.exact.map(|last| IpAddr::from([10, 0, net, last]));
        let identity = |second: bool| Some(if second { "boot/2" } else { "boot/1" }.to_owned());
        // Two containers are in each namespace.
        let path = CONTAINERS[self.id / 2];
        let placed = |second| Sandbox {
            identity: identity(second),
            ..sandbox(path, &format!("eth{}", self.id % 2))
        };
        let port = |published| PublishSpec {
            published,
            target: 80,
            count: 1,
            protocol: Protocol::Tcp,
            mode: PublishMode::Host,
            at: PublishAt::Everywhere,
            allow: Vec::new(),
        };
        let traits = ContainerTraits {
            name: id.to_owned(),
            service: self.service.map(|index| SERVICES[index].to_owned()),
            unready: self.unready,
            publish: self.port.map(port).into_iter().collect(),
            ..ContainerTraits::default()
        };
        Command::Container(ContainerCommand::Attach {
            spec: Box::new(ContainerSpec {
                ipv4: AddressWish {
                    wanted: self.wanted.0,
                    exact,
                    within: None,
                },
                ipv6: AddressWish {
                    wanted: self.wanted.1,
                    ..AddressWish::default()
                },
                sandbox: self.sandbox.map(placed).filter(|_| !self.left),
                left: self.left,
                traits: Some(traits),
                ..spec(self.node, id, NETWORKS[self.net].0)
            }),
        })
    }
}

/// A network that containers may attach to.
fn attachable(net: usize) -> NetworkSpec {
    NetworkSpec {
        attachable: true,
        ..network(NETWORKS[net].0, NETWORKS[net].1)
    }
}

/// h1 is a manager; there is `net`.
/// Any level that there has been, the newest as often as all before.
fn level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::NEWEST), (0..Level::NEWEST.0).prop_map(Level)]
}

fn begin(level: Level) -> Cluster {
    let mut cluster = Cluster::at(level, NODES);
    cluster.create_network(attachable(0));
    cluster
}

fn event() -> impl Strategy<Value = Event> {
    let node = || 1..=NODES;
    let (net, name) = (|| 0..NETWORKS.len(), || 0..SERVICES.len());
    let mode = prop_oneof![Just(EndpointMode::Vip), Just(EndpointMode::Dnsrr)];
    let status = prop_oneof![
        Just(NodeStatus::Ready),
        Just(NodeStatus::Down),
        Just(NodeStatus::Unknown)
    ];
    let availability = prop_oneof![
        Just(Availability::Active),
        Just(Availability::Pause),
        Just(Availability::Drain)
    ];
    let order = prop_oneof![Just(UpdateOrder::StopFirst), Just(UpdateOrder::StartFirst)];
    let on_failure = prop_oneof![Just(UpdateFailure::Pause), Just(UpdateFailure::Continue)];
    let policy = (0..4u32, 0..3_000u64, order, on_failure).prop_map(
        |(parallelism, delay, order, on_failure)| UpdatePolicy {
            parallelism,
            delay,
            order,
            on_failure,
        },
    );
    let end = prop_oneof![
        Just(TaskState::Complete),
        Just(TaskState::Failed),
        Just(TaskState::Rejected)
    ];
    prop_oneof![
        1 => net().prop_map(Event::CreateNetwork),
        1 => net().prop_map(Event::RemoveNetwork),
        1 => (net(), any::<bool>(), any::<bool>())
            .prop_map(|(net, hosts, others)| Event::Reach(net, hosts, others)),
        3 => (name(), 0..7u32, prop::collection::vec(net(), 0..3), mode)
            .prop_map(|(name, replicas, networks, mode)| {
                Event::CreateService { name, replicas, networks, mode }
            }),
        3 => (name(), 0..8u32).prop_map(|(name, replicas)| Event::Scale(name, replicas)),
        1 => name().prop_map(Event::RemoveService),
        3 => (name(), 0..3u8, policy, any::<bool>())
            .prop_map(|(name, env, policy, force)| Event::Update(name, env, policy, force)),
        1 => name().prop_map(Event::Rollback),
        1 => (name(), 1..4u32).prop_map(|(name, slot)| Event::ReplaceTask(name, slot)),
        2 => (node(), status).prop_map(|(node, status)| Event::Status(node, status)),
        1 => (node(), availability)
            .prop_map(|(node, availability)| Event::Availability(node, availability)),
        1 => (2..=NODES).prop_map(Event::RemoveNode),
        1 => node().prop_map(Event::Admit),
        6 => (node(), 0..2u32).prop_map(|(node, connections)| Event::Agent(node, connections)),
        3 => (node(), any::<prop::sample::Index>(), end)
            .prop_map(|(node, which, end)| Event::End(node, which, end)),
        1 => (0..8_000u64).prop_map(Event::Pass),
        1 => (-100_000..100_000i64).prop_map(Event::Jump),
        5 => Attach::any().prop_map(|attach| Event::Attach(Box::new(attach))),
        2 => (node(), 0..CONTAINERS.len()).prop_map(|(node, id)| Event::Detach(node, id)),
        8 => (1..40usize).prop_map(Event::Step),
        1 => Just(Event::Restart),
        1 => Just(Event::Raise),
    ]
}

fn act(cluster: &mut Cluster, event: &Event, witness: &mut Witness) {
    let owned = |name: &str| name.to_owned();
    let command = match event.clone() {
        Event::CreateNetwork(net) => Command::Network(NetworkCommand::Create {
            spec: attachable(net),
        }),
        Event::RemoveNetwork(net) => Command::Network(NetworkCommand::Remove {
            network: owned(NETWORKS[net].0),
        }),
        Event::Reach(net, hosts, others) => {
            let outside = vec!["198.51.100.0/24".parse().unwrap()];
            let (expose, conceal) = match others {
                true => (outside, Vec::new()),
                false => (Vec::new(), outside),
            };
            Command::Network(NetworkCommand::Reach {
                network: owned(NETWORKS[net].0),
                hosts: Some(hosts),
                expose,
                conceal,
            })
        }
        Event::CreateService {
            name,
            replicas,
            networks,
            mode,
        } => {
            let networks: Vec<&str> = networks.iter().map(|net| NETWORKS[*net].0).collect();
            let spec = service(SERVICES[name], replicas, &networks);
            Command::Service(ServiceCommand::Create {
                spec: ServiceSpec {
                    endpoint_mode: mode,
                    ..spec
                },
            })
        }
        Event::Scale(name, replicas) => Command::Service(ServiceCommand::Scale {
            service: owned(SERVICES[name]),
            replicas,
        }),
        Event::RemoveService(name) => Command::Service(ServiceCommand::Remove {
            service: owned(SERVICES[name]),
        }),
        Event::Update(name, env, policy, force) => {
            match update(cluster, SERVICES[name], env, policy, force) {
                Some(update) => update,
                None => return,
            }
        }
        Event::Rollback(name) => Command::Service(ServiceCommand::Rollback {
            service: owned(SERVICES[name]),
        }),
        Event::ReplaceTask(name, slot) => Command::Task(TaskCommand::Replace {
            task: format!("{}.{slot}", SERVICES[name]),
        }),
        Event::Status(node, status) => Command::Node(NodeCommand::SetStatus {
            node: NodeId(node),
            status,
        }),
        Event::Availability(node, availability) => Command::Node(NodeCommand::SetAvailability {
            version: None,
            node: format!("h{node}"),
            availability,
        }),
        Event::RemoveNode(node) => Command::Node(NodeCommand::Remove { node: NodeId(node) }),
        Event::Admit(number) => Command::Node(NodeCommand::Admit {
            node: node(number, Role::Worker),
        }),
        Event::Attach(attach) => attach.command(),
        Event::Detach(node, id) => Command::Container(ContainerCommand::Detach {
            keys: vec![key(node, CONTAINERS[id])],
        }),
        Event::Pass(time) => return cluster.now += time,
        Event::Jump(by) => {
            witness.set_back(by.min(0).unsigned_abs());
            cluster.now = cluster.now.saturating_add_signed(by);
            return;
        }
        Event::Restart => {
            let snapshot = cluster.state.snapshot();
            cluster.state = State::restore(&snapshot, Level::NEWEST).unwrap();
            return;
        }
        Event::Raise => {
            let next = cluster.state.level().next();
            return cluster.raise_to(next.min(Level::NEWEST));
        }
        Event::Agent(node, connections) => return catch_up(cluster, node, connections, witness),
        Event::End(node, which, end) => return end_one(cluster, node, which, end),
        Event::Step(limit) => {
            let commands = cluster.step();
            return commands
                .into_iter()
                .take(limit)
                .for_each(|command| witness.send(cluster, command));
        }
    };
    witness.send(cluster, command);
}

fn update(
    cluster: &Cluster,
    name: &str,
    env: u8,
    policy: UpdatePolicy,
    force: bool,
) -> Option<Command> {
    let known = services(cluster)
        .into_iter()
        .find(|service| service.spec.name == name)?;
    let mut spec = ServiceSpec {
        update: policy,
        ..known.spec
    };
    let Runtime::Exec { env: variables, .. } = &mut spec.task.runtime;
    variables.insert("E".to_owned(), env.to_string());
    Some(Command::Service(ServiceCommand::Update {
        service: name.to_owned(),
        spec,
        version: known.version,
        force,
    }))
}

/// Sees that no task that takes traffic is asked to stop before that loses nothing.
#[derive(Default)]
struct Witness {
    /// Log index and time from which nothing new is led to a task.
    withdrawn: BTreeMap<TaskId, (u64, Millis)>,
    /// Since when every balancer knows.
    draining: BTreeMap<TaskId, Millis>,
    /// Those that had no connections left then.
    quiet: BTreeSet<TaskId>,
}

impl Witness {
    /// The leaders' clock is set back: as much time has passed as before. Set forward, it ends
    /// waits.
    fn set_back(&mut self, by: Millis) {
        for (_, since) in self.withdrawn.values_mut() {
            *since = since.saturating_sub(by);
        }
        for since in self.draining.values_mut() {
            *since = since.saturating_sub(by);
        }
    }

    fn send(&mut self, cluster: &mut Cluster, command: Command) {
        let speaks_of_tasks = matches!(
            command,
            Command::Task(
                TaskCommand::Create { .. }
                    | TaskCommand::Drain { .. }
                    | TaskCommand::Replace { .. }
                    | TaskCommand::SetDesired { .. }
                    | TaskCommand::Withdraw { .. }
            )
        );
        if !speaks_of_tasks {
            return drop(cluster.send(command));
        }
        let before = cluster.state.clone();
        drop(cluster.send(command));
        let earlier: BTreeMap<TaskId, TaskInfo> = tasks(&before)
            .into_iter()
            .map(|task| (task.id, task))
            .collect();
        for task in tasks(&cluster.state) {
            let Some(last) = earlier.get(&task.id) else {
                continue;
            };
            let node = last.node_id.and_then(|node| before.nodes().get(&node));
            if task.withdrawn {
                self.withdrawn
                    .entry(task.id)
                    .or_insert((cluster.index, cluster.now));
            }
            let view = last.node_id.map(|node| cluster.state.view(node));
            if view.is_some_and(|view| view.tasks.get(&task.id).is_some_and(|task| task.draining)) {
                self.begin_draining(&before, task.id, cluster.now);
            }
            let serves = last.state == TaskState::Running
                && node.is_some_and(|node| node.status != NodeStatus::Down);
            let is_asked =
                last.desired_state == TaskState::Running && task.desired_state > TaskState::Running;
            if serves && is_asked && !task.addresses.is_empty() {
                let since = self
                    .draining
                    .get(&task.id)
                    .unwrap_or_else(|| panic!("{} is cut off", task.name));
                let is_over =
                    self.quiet.contains(&task.id) || cluster.now >= since + task.spec.drain;
                assert!(is_over, "{} has connections and time left", task.name);
            }
        }
    }

    fn begin_draining(&mut self, before: &State, task: TaskId, now: Millis) {
        if self.draining.contains_key(&task) {
            return;
        }
        self.draining.insert(task, now);
        let (index, since) = self.withdrawn[&task];
        let address = tasks(before)
            .into_iter()
            .find(|info| info.id == task)
            .map(|info| info.addresses[0]);
        for node in before
            .nodes()
            .values()
            .filter(|node| node.status == NodeStatus::Ready)
        {
            let view = before.view(node.id);
            let leads = view
                .endpoints
                .values()
                .any(|endpoint| endpoint.addresses.first() == address.as_ref());
            assert!(
                !leads || node.applied >= index || now >= since + 30_000,
                "{} has not heard",
                node.hostname
            );
        }
    }
}

fn tasks(state: &State) -> Vec<TaskInfo> {
    let Answer::Tasks(tasks) = state.answer(None, &Query::Tasks(None)).unwrap() else {
        panic!("no tasks")
    };
    tasks
}

fn is_heard(cluster: &Cluster, node: u64) -> bool {
    cluster
        .state
        .nodes()
        .get(&NodeId(node))
        .is_some_and(|node| node.status == NodeStatus::Ready)
}

fn catch_up(cluster: &mut Cluster, node: u64, connections: u32, witness: &mut Witness) {
    if is_heard(cluster, node) {
        let view = cluster.state.view(NodeId(node));
        let draining = view
            .tasks
            .iter()
            .filter(|(_, task)| task.draining)
            .map(|(id, _)| *id);
        witness.quiet.extend(draining.filter(|_| connections == 0));
        cluster.agent_with(node, connections);
    }
}

fn end_one(cluster: &mut Cluster, node: u64, which: prop::sample::Index, end: TaskState) {
    let view = cluster.state.view(NodeId(node));
    let tasks: Vec<TaskId> = view.tasks.keys().copied().collect();
    if is_heard(cluster, node) && !tasks.is_empty() {
        cluster.report(node, 0, vec![report(*which.get(&tasks), end)]);
    }
}

/// The most advanced state that each task was ever seen in.
type Seen = BTreeMap<TaskId, (TaskState, TaskState)>;

fn check(cluster: &Cluster, seen: &mut Seen) {
    assert_eq!(cluster.state.check(), Vec::<String>::new());
    let mut wanted = BTreeSet::new();
    for task in tasks(&cluster.state) {
        let last = seen
            .entry(task.id)
            .or_insert((task.state, task.desired_state));
        assert!(
            task.state >= last.0 && task.desired_state >= last.1,
            "{} moved back",
            task.name
        );
        *last = (task.state, task.desired_state);
        let should_run = !task.state.is_terminal() && task.desired_state == TaskState::Running;
        assert!(
            !should_run || wanted.insert(task.name.clone()),
            "two runs of {} should run",
            task.name
        );
    }
    let views: Vec<NodeConfig> = (1..=NODES)
        .map(|node| cluster.state.view(NodeId(node)))
        .collect();
    views.iter().for_each(check_view);
    check_containers(cluster, &views);
}

/// An interface of a container that is somewhere is in its host's view, and in no other's as one of
/// its own.
fn check_containers(cluster: &Cluster, views: &[NodeConfig]) {
    let mut addresses: BTreeSet<(NetworkId, IpAddr)> = BTreeSet::new();
    for node in cluster.state.nodes().keys() {
        let Answer::Containers(here) = cluster
            .state
            .answer(None, &Query::Containers(node.to_string()))
            .unwrap()
        else {
            panic!("no containers")
        };
        for container in here {
            let is_new = container
                .addresses
                .iter()
                .all(|address| addresses.insert((container.network, *address)));
            assert!(
                is_new && !container.addresses.is_empty(),
                "{} shares an address, or has none",
                container.key
            );
            for view in views {
                let mut joints = view.containers.values().flat_map(|found| &found.endpoints);
                let is_inside = joints.any(|joint| joint.id == container.id);
                assert_eq!(
                    is_inside,
                    view.node == *node && container.sandbox.is_some(),
                    "{}",
                    container.key
                );
            }
        }
    }
}

fn check_view(view: &NodeConfig) {
    let mut addresses: BTreeSet<(NetworkId, IpAddr)> = BTreeSet::new();
    for endpoint in view.endpoints.values() {
        assert!(
            view.networks.contains_key(&endpoint.network)
                && view.peers.contains_key(&endpoint.node)
        );
        for address in &endpoint.addresses {
            assert!(
                addresses.insert((endpoint.network, *address)),
                "{address} is at two endpoints"
            );
        }
    }
    for ((network, _), service) in &view.services {
        for server in service.real_servers.keys() {
            assert!(
                addresses.contains(&(*network, *server)),
                "real server {server} is no endpoint"
            );
        }
        assert!(
            service
                .vips
                .iter()
                .all(|vip| !addresses.contains(&(*network, *vip)))
        );
    }
    for (id, container) in &view.containers {
        let is_there = |joint: &ContainerEndpoint| {
            view.endpoints
                .get(&joint.id)
                .is_some_and(|of| of.sandbox == *id)
        };
        assert!(
            container.endpoints.iter().all(is_there),
            "what is in {} is no endpoint",
            container.path
        );
    }
    let changed = NodeConfig::empty(view.node).apply(&view.snapshot());
    assert_eq!(changed.as_ref(), Ok(view), "a view travels whole");
}

/// All nodes are back and all waits are over.
fn heal(cluster: &mut Cluster) {
    for number in 1..=NODES {
        cluster.apply(Command::Node(NodeCommand::Admit {
            node: node(number, Role::Worker),
        }));
        cluster.set_status(number, NodeStatus::Ready);
        cluster.set_availability(number, Availability::Active);
    }
    cluster.converge();
    // Updates pause between batches, of which there are as many as replicas at most.
    for _ in 0..10 {
        cluster.now += 60_000;
        cluster.converge();
        if services(cluster).iter().all(|service| {
            service
                .status
                .update
                .as_ref()
                .is_none_or(|update| update.paused)
        }) {
            break;
        }
    }
}

fn services(cluster: &Cluster) -> Vec<ServiceInfo> {
    let Answer::Services(services) = cluster.state.answer(None, &Query::Services).unwrap() else {
        panic!("none")
    };
    services
}

proptest! {
    #[test]
    fn addresses_are_owned_once_and_tasks_never_move_back(
        level in level(), events in prop::collection::vec(event(), 1..120),
    ) {
        let (mut cluster, mut seen) = (begin(level), Seen::new());
        let mut witness = Witness::default();
        for event in &events {
            act(&mut cluster, event, &mut witness);
            check(&cluster, &mut seen);
        }
        heal(&mut cluster);
        check(&cluster, &mut seen);
        for service in services(&cluster) {
            prop_assert_eq!((service.status.running, service.status.settled),
                (service.spec.replicas, service.spec.replicas));
            prop_assert!(service.status.update.is_none_or(|update| update.paused));
        }
        for service in services(&cluster) {
            cluster.remove_service(&service.spec.name);
        }
        cluster.converge();
        prop_assert_eq!(services(&cluster), vec![]);
        for node in 1..=NODES {
            let keys = CONTAINERS.map(|id| key(node, id)).to_vec();
            cluster.apply(Command::Container(ContainerCommand::Detach { keys }));
        }
        for (name, _) in NETWORKS {
            let network = name.to_owned();
            drop(cluster.send(Command::Network(NetworkCommand::Remove { network })));
        }
        prop_assert_eq!(cluster.state.ledger().leases().count(), 0);
    }

    #[test]
    fn replicas_and_restored_snapshots_go_the_same_way(
        level in level(), events in prop::collection::vec(event(), 1..80), cut in 0..200usize,
    ) {
        let mut cluster = begin(level);
        let mut witness = Witness::default();
        events.iter().for_each(|event| act(&mut cluster, event, &mut witness));
        let mut replica = State::default();
        for (position, entry) in cluster.log.iter().enumerate() {
            if position == cut {
                let restored = State::restore(&replica.snapshot(), Level::NEWEST).unwrap();
                prop_assert_eq!(&restored, &replica);
                replica = restored;
            }
            let _applied = replica.apply(position as u64 + 1, entry.clone());
        }
        prop_assert_eq!(replica.snapshot(), cluster.state.snapshot());
    }
}
