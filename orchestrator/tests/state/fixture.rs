//! A cluster in memory: one state, a log index, a clock that tests move, and agents that do as they
//! are told.

use std::collections::BTreeMap;

use model::*;
use orchestrator::{Agenda, State};

use crate::sections::Followers;

pub struct Cluster {
    pub state: State,
    pub index: u64,
    pub now: Millis,
    pub requests: u64,
    pub log: Vec<Entry>,
    pub agenda: Agenda,
    pub followers: Followers,
    /// What somebody knows who has been told of every change.
    pub watched: BTreeMap<ObjectRef, Facts>,
}

pub fn node(number: u64, role: Role) -> Node {
    let octet = u8::try_from(number).unwrap();
    Node {
        id: NodeId(number),
        hostname: format!("h{number}"),
        address: ([192, 168, 7, octet], 2377).into(),
        vtep: [192, 168, 7, octet].into(),
        role,
        availability: Availability::Active,
        balancer: BalancerKind::default(),
        status: NodeStatus::Ready,
        applied: 0,
        behind: Default::default(),
        failures: Vec::new(),
        causes: Vec::new(),
        capabilities: None,
        on_link: Default::default(),
        key: None,
        joined: 0,
        version: 0,
    }
}

pub fn authority() -> Authority {
    Authority {
        root_certificate: "root".to_owned(),
        root_key: "key".to_owned(),
        worker_secret: Secret::new(1),
        manager_secret: Secret::new(2),
    }
}

pub fn network(name: &str, subnets: &[&str]) -> NetworkSpec {
    let subnet = |text: &&str| SubnetSpec {
        subnet: text.parse().unwrap(),
        gateway: None,
        range: None,
    };
    NetworkSpec {
        name: name.to_owned(),
        driver: Driver::Overlay,
        subnets: subnets.iter().map(subnet).collect(),
        internal: false,
        encrypted: false,
        attachable: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    }
}

pub fn service(name: &str, replicas: u32, networks: &[&str]) -> ServiceSpec {
    let argv = vec!["sleep".to_owned(), "infinity".to_owned()];
    let task = TaskSpec::new(Runtime::Exec {
        argv,
        env: BTreeMap::new(),
        rootfs: None,
    });
    let networks = networks
        .iter()
        .map(|name| NetworkAttachment::new(*name))
        .collect();
    ServiceSpec {
        replicas,
        networks,
        ..ServiceSpec::new(name, task)
    }
}

/// What a CNI runtime calls an interface on h`node`.
/// A port of TCP that leads to 80.
pub fn port(published: u16, mode: PublishMode) -> PublishSpec {
    let (protocol, at, allow) = (Protocol::Tcp, PublishAt::Everywhere, Vec::new());
    PublishSpec {
        published,
        target: 80,
        count: 1,
        protocol,
        mode,
        at,
        allow,
    }
}

pub fn key(node: u64, id: &str) -> ContainerKey {
    ContainerKey {
        node: NodeId(node),
        runtime: ContainerRuntime::Cni,
        id: id.to_owned(),
    }
}

/// Wishes for an address of each family; it is nowhere yet.
pub fn spec(node: u64, id: &str, network: &str) -> ContainerSpec {
    let any = AddressWish {
        wanted: true,
        ..AddressWish::default()
    };
    let (sandbox, traits) = (None, None);
    let (key, network) = (key(node, id), network.to_owned());
    ContainerSpec {
        key,
        network,
        ipv4: any,
        ipv6: any,
        mac: None,
        sandbox,
        left: false,
        traits,
    }
}

/// The first that is at this path.
pub fn sandbox(name: &str, interface: &str) -> Sandbox {
    let (identity, interface) = (Some("boot/1".to_owned()), Some(interface.to_owned()));
    Sandbox {
        path: format!("/run/netns/{name}"),
        identity,
        interface,
    }
}

/// A snapshot without its level.
pub fn json(state: &State) -> serde_json::Value {
    let snapshot = state.snapshot();
    let (_, body) = level::open("the snapshot", &snapshot, Level::NEWEST).unwrap();
    serde_json::from_slice(body).unwrap()
}

/// Log position and remembered answers aside: what a refusal must not change.
pub fn content(state: &State) -> serde_json::Value {
    let mut value = json(state);
    let fields = value.as_object_mut().unwrap();
    fields.remove("index");
    fields.remove("answers");
    value
}

/// The facts of all objects, read in small pages.
pub fn what_is_there(state: &State) -> BTreeMap<ObjectRef, Facts> {
    let (mut there, mut last) = (BTreeMap::new(), None);
    loop {
        let page = state.present(last, 7);
        let Some(newest) = page.last() else {
            return there;
        };
        last = Some(newest.object);
        there.extend(
            page.iter()
                .map(|change| (change.object, own(&change.facts))),
        );
    }
}

/// Facts without the names of other objects, and what they take from it: those are of the time of
/// the change.
fn own(facts: &Facts) -> Facts {
    let mut facts = facts.clone();
    match &mut facts {
        Facts::Task(task) => task.hostname.clear(),
        Facts::Container {
            hostname,
            network_name,
            causes,
            ..
        } => {
            hostname.clear();
            network_name.clear();
            causes.clear();
        }
        _ => {}
    }
    facts
}

impl Cluster {
    /// h1 is a manager, the others are workers; all are ready and active.
    pub fn of(nodes: u64) -> Self {
        Self::at(Level::NEWEST, nodes)
    }

    /// The same at this level.
    pub fn at(level: Level, nodes: u64) -> Self {
        let mut cluster = Self {
            state: State::default(),
            index: 0,
            now: 1_000_000,
            requests: 0,
            log: Vec::new(),
            agenda: Agenda::default(),
            followers: Followers::default(),
            watched: what_is_there(&State::default()),
        };
        cluster.apply(Command::Cluster(ClusterCommand::Bootstrap {
            authority: authority(),
            node: node(1, Role::Manager),
            data_path_port: 4789,
        }));
        cluster.raise_to(level);
        for number in 2..=nodes {
            cluster.apply(Command::Node(NodeCommand::Admit {
                node: node(number, Role::Worker),
            }));
        }
        cluster
    }

    /// Whether what follows from the state is checked after this command. It costs time: in long
    /// tests only now and then.
    fn is_checked(&self) -> bool {
        let number = self.log.len();
        number < 80 || number < 2_000 && number.is_multiple_of(31)
    }

    /// What every node sees.
    fn views(&self) -> Vec<NodeConfig> {
        let nodes = self.state.nodes().keys();
        let of_all = || nodes.map(|node| self.state.view(*node)).collect();
        if self.is_checked() {
            of_all()
        } else {
            Vec::new()
        }
    }

    /// Every member knows this level.
    pub fn raise_to(&mut self, level: Level) {
        while self.state.level() < level {
            let level = self.state.level().next();
            self.apply(Command::Cluster(ClusterCommand::RaiseLevel { level }));
        }
    }

    /// With the network `net` (10.0.9.0/24 and fd00:9::/64).
    pub fn with_network(nodes: u64) -> Self {
        let mut cluster = Self::of(nodes);
        cluster.create_network(network("net", &["10.0.9.0/24", "fd00:9::/64"]));
        cluster
    }

    pub fn send(&mut self, command: Command) -> Response {
        self.requests += 1;
        self.send_as(RequestId(self.requests), command)
    }

    pub fn send_as(&mut self, request: RequestId, command: Command) -> Response {
        self.index += 1;
        let chance = command
            .needs_chance(self.state.level())
            .then(|| EpochKey::new([self.index as u8; 32]));
        let entry = Entry {
            request,
            now: self.now,
            chance,
            command,
        };
        self.log.push(entry.clone());
        let before: Vec<NodeConfig> = self.views();
        let applied = self.state.apply(self.index, entry);
        for view in before {
            let now = self.state.view(view.node);
            let is_told = self.state.concerns(view.node, &applied.concern);
            assert!(
                is_told || view.delta(&now).is_empty(),
                "a change that {} is not told of: {:?}",
                view.node,
                view.delta(&now)
            );
        }
        self.followers.hear(&applied);
        if self.is_checked() {
            assert_eq!(self.state.check_derived(), Vec::<&str>::new());
            self.followers.look(&self.state, self.index);
        }
        self.watch(&applied.changes);
        applied.response
    }

    /// What the leader proposes. It misses nothing that a look at everything would find.
    #[track_caller]
    pub fn step(&mut self) -> Vec<Command> {
        let commands = self.state.step(&mut self.agenda, self.now);
        let all = self.state.step(&mut Agenda::default(), self.now);
        assert_eq!(commands, all, "what the agenda finds, and what there is");
        commands
    }

    /// Who is told of all changes knows what there is.
    #[track_caller]
    fn watch(&mut self, changes: &[Change]) {
        for change in changes {
            assert_eq!(change.revision, self.state.revision());
            assert_eq!(change.at, self.now);
            let object = change.object;
            let known = match change.fate {
                Fate::Removed => self.watched.remove(&object),
                Fate::Made | Fate::Changed => self.watched.insert(object, own(&change.facts)),
            };
            let only_one = object.number() == 0;
            let is_news = known.is_none() == (change.fate == Fate::Made);
            assert!(is_news || only_one, "{change:?}, known: {known:?}");
        }
        if self.is_checked() {
            let present = what_is_there(&self.state);
            for (object, facts) in &present {
                let told = self.watched.get(object);
                assert_eq!(told, Some(facts), "{object:?}");
            }
            assert_eq!(self.watched.len(), present.len());
        }
    }

    #[track_caller]
    pub fn apply(&mut self, command: Command) -> Outcome {
        self.send(command).unwrap()
    }

    /// Applies what must be refused, and sees that it changed nothing.
    #[track_caller]
    pub fn refuse(&mut self, command: Command) -> Refusal {
        let before = content(&self.state);
        let refusal = self.send(command).unwrap_err();
        assert_eq!(content(&self.state), before, "{refusal}");
        refusal
    }

    #[track_caller]
    pub fn create_network(&mut self, spec: NetworkSpec) -> NetworkId {
        let Outcome::Network(id) = self.apply(Command::Network(NetworkCommand::Create { spec }))
        else {
            panic!("no network")
        };
        id
    }

    #[track_caller]
    pub fn create_service(&mut self, spec: ServiceSpec) -> ServiceId {
        let Outcome::Service(id) = self.apply(Command::Service(ServiceCommand::Create { spec }))
        else {
            panic!("no service")
        };
        id
    }

    #[track_caller]
    pub fn attach(&mut self, spec: ContainerSpec) -> Container {
        let outcome = self.apply(Command::Container(ContainerCommand::Attach {
            spec: Box::new(spec),
        }));
        let Outcome::Container(container) = outcome else {
            panic!("no container")
        };
        *container
    }

    /// The network of this name.
    pub fn network(&self, name: &str) -> NetworkId {
        let networks = self
            .state
            .answer(None, &Query::Network(name.to_owned()))
            .unwrap();
        let Answer::Networks(networks) = networks else {
            panic!("no networks")
        };
        networks[0].id
    }

    #[track_caller]
    pub fn scale(&mut self, service: &str, replicas: u32) {
        self.apply(Command::Service(ServiceCommand::Scale {
            service: service.to_owned(),
            replicas,
        }));
    }

    #[track_caller]
    pub fn remove_service(&mut self, service: &str) {
        self.apply(Command::Service(ServiceCommand::Remove {
            service: service.to_owned(),
        }));
    }

    pub fn set_status(&mut self, node: u64, status: NodeStatus) {
        self.apply(Command::Node(NodeCommand::SetStatus {
            node: NodeId(node),
            status,
        }));
    }

    pub fn set_availability(&mut self, node: u64, availability: Availability) {
        self.apply(Command::Node(NodeCommand::SetAvailability {
            version: None,
            node: NodeId(node).to_string(),
            availability,
        }));
    }

    /// Applies what `step` asks for until it asks for nothing; whether it asked for anything.
    #[track_caller]
    pub fn settle(&mut self) -> bool {
        for round in 0..100 {
            let commands = self.step();
            if commands.is_empty() {
                return round > 0;
            }
            // Those behind the first may be refused: what they were for may have changed by then.
            for (position, command) in commands.into_iter().enumerate() {
                let sent = self.send(command.clone());
                assert!(position > 0 || sent.is_ok(), "{command:?}: {sent:?}");
            }
        }
        panic!("step does not come to rest");
    }

    /// What a node's agent says once it has done all that its view asks for.
    pub fn agent(&mut self, node: u64) -> bool {
        self.agent_with(node, 0)
    }

    /// The same, while so many connections are left to what drains.
    pub fn agent_with(&mut self, node: u64, connections: u32) -> bool {
        let view = self.state.view(NodeId(node));
        let reports = view
            .tasks
            .iter()
            .filter_map(|(id, task)| agent_report(*id, task));
        let count = |report: TaskReport| TaskReport {
            connections: report.connections.map(|_| connections),
            ..report
        };
        let reports: Vec<TaskReport> = reports.map(count).collect();
        let changes =
            !reports.is_empty() || self.state.nodes()[&NodeId(node)].applied != view.generation;
        self.report(node, view.generation, reports);
        changes
    }

    pub fn report(&mut self, node: u64, applied: u64, tasks: Vec<TaskReport>) {
        let capabilities = self.state.nodes()[&NodeId(node)]
            .capabilities
            .clone()
            .unwrap_or_default();
        self.apply(Command::Node(NodeCommand::Report(NodeReport {
            tasks,
            capabilities,
            ..NodeReport::new(NodeId(node), applied)
        })));
    }

    /// A node says what its kernel can do.
    pub fn say_capable(&mut self, node: u64, capabilities: &[Capability]) {
        let capabilities = capabilities.iter().copied().collect();
        self.apply(Command::Node(NodeCommand::Report(NodeReport {
            capabilities,
            ..NodeReport::new(NodeId(node), 0)
        })));
    }

    /// With the encrypted network `secret` and a task of `web` on every node.
    pub fn encrypting(nodes: u64) -> Self {
        let mut cluster = Self::of(nodes);
        (1..=nodes).for_each(|node| cluster.say_capable(node, &[Capability::Esp]));
        cluster.create_network(NetworkSpec {
            encrypted: true,
            ..network("secret", &[])
        });
        cluster.create_service(service("web", u32::try_from(nodes).unwrap(), &["secret"]));
        cluster.converge();
        cluster
    }

    /// Steps and lets the agents of all ready nodes act until no task changes any more.
    #[track_caller]
    pub fn converge(&mut self) {
        for _ in 0..100 {
            let mut busy = self.settle();
            for node in self.ready_nodes() {
                let view = self.state.view(NodeId(node));
                busy |= view
                    .tasks
                    .iter()
                    .any(|(id, task)| agent_report(*id, task).is_some());
                // What waits for addresses to be forgotten waits for the clock.
                self.now += if view.tasks.values().any(|task| task.draining) {
                    1_000
                } else {
                    0
                };
                self.agent(node);
            }
            if !busy && self.step().is_empty() {
                return;
            }
        }
        panic!("the cluster does not converge");
    }

    /// Steps until every task that is to stop is told so: hosts take their views, and no
    /// connections are left.
    #[track_caller]
    pub fn drain(&mut self) {
        for _ in 0..100 {
            self.settle();
            for node in self.ready_nodes() {
                let view = self.state.view(NodeId(node));
                let draining = view
                    .tasks
                    .iter()
                    .filter(|(_, task)| task.draining && task.desired == TaskState::Running);
                let reports = draining
                    .filter_map(|(id, task)| agent_report(*id, task))
                    .collect();
                self.report(node, view.generation, reports);
            }
            if self.step().is_empty() {
                return;
            }
        }
        panic!("the tasks do not drain");
    }

    pub fn ready_nodes(&self) -> Vec<u64> {
        let ready = self
            .state
            .nodes()
            .values()
            .filter(|node| node.status == NodeStatus::Ready);
        ready.map(|node| node.id.0).collect()
    }

    /// The tasks of a service, by slot, newest first.
    #[track_caller]
    pub fn tasks(&self, service: &str) -> Vec<TaskInfo> {
        let Answer::Tasks(tasks) = self
            .state
            .answer(None, &Query::Tasks(Some(service.to_owned())))
            .unwrap()
        else {
            panic!("no tasks")
        };
        tasks
    }

    #[track_caller]
    pub fn task(&self, name: &str) -> TaskInfo {
        let Answer::Tasks(mut tasks) = self
            .state
            .answer(None, &Query::Task(name.to_owned()))
            .unwrap()
        else {
            panic!("no tasks")
        };
        tasks.remove(0)
    }

    #[track_caller]
    pub fn service(&self, name: &str) -> ServiceInfo {
        let Answer::Services(mut services) = self
            .state
            .answer(None, &Query::Service(name.to_owned()))
            .unwrap()
        else {
            panic!("no services")
        };
        services.remove(0)
    }

    /// The agent's word on one task: it has ended, or stands elsewhere.
    pub fn word(&mut self, task: &TaskInfo, state: TaskState) {
        let node = task.node_id.unwrap().0;
        let applied = self.state.nodes()[&NodeId(node)].applied;
        self.report(node, applied, vec![report(task.id, state)]);
    }
}

pub fn report(task: TaskId, state: TaskState) -> TaskReport {
    TaskReport {
        exit_code: state.is_terminal().then_some(1),
        ..TaskReport::new(task, state)
    }
}

pub fn agent_report(id: TaskId, task: &TaskConfig) -> Option<TaskReport> {
    if task.desired > TaskState::Running {
        Some(report(id, TaskState::Shutdown))
    } else if task.draining {
        Some(TaskReport {
            connections: Some(0),
            ..report(id, TaskState::Running)
        })
    } else {
        (task.state < TaskState::Running).then(|| report(id, TaskState::Running))
    }
}
