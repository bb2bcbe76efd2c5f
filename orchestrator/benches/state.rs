//! The state at size: what a step, a command and a whole deployment cost among many tasks, services
//! and containers. Prints Markdown tables; each ratio is to the first row of its table.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    hint::black_box,
    time::{Duration, Instant},
};

use model::*;
use nix::time::{ClockId, clock_gettime};
use orchestrator::{Agenda, State};

/// How often each thing is measured.
const ROUNDS: usize = 31;
/// How often what takes milliseconds is measured.
const FEW: usize = 5;
/// How many tasks of a service of many replicas are replaced at a time.
const UPDATED: u32 = 20;
/// Replicas of each of the services that fill the state.
const REPLICAS: u32 = 50;
/// The most commands and bytes of one entry of the log, as `cluster` writes it.
const ENTRY: (usize, usize) = (1_000, 256 << 10);
/// A log index ahead of all, so that no host is behind.
const AHEAD: u64 = u64::MAX / 2;

fn main() {
    type Scene = fn();
    let scenes: [(&str, Scene); 6] = [
        ("tasks", tasks),
        ("replicas", replicas),
        ("services", services),
        ("containers", containers),
        ("networks", networks),
        ("deployment", deployment),
    ];
    let asked: Vec<String> = std::env::args().skip(1).collect();
    for (name, scene) in scenes {
        let is_other = |word: &String| !word.starts_with("--") && word != name;
        if !asked.iter().any(is_other) {
            scene();
        }
    }
}

fn tasks() {
    println!("Services of {REPLICAS} tasks on 20 networks; µs, and the ratio to the first row.\n");
    let mut table = Table::new(&[
        "nodes",
        "tasks",
        "step, one change",
        "step, idle",
        "step, new agenda",
        "`WithdrawTask` of an update",
        "`Report`, one task",
        "freeze",
        "snapshot",
        "restore",
    ]);
    for (nodes, tasks) in [(100, 1_000), (100, 10_000), (100, 50_000), (1_000, 50_000)] {
        let mut cluster = Cluster::filled(nodes, tasks, 20);
        let row = [
            cluster.step_after_a_change(),
            median(ROUNDS, |_| cluster.timed_step()),
            median(FEW, |_| cluster.step_with_a_new_agenda()),
            cluster.withdrawal(),
            median(ROUNDS, |round| cluster.change(some_task(round))),
            median(FEW, |_| busy(|| cluster.state.freeze())),
            median(FEW, |_| busy(|| cluster.state.snapshot())),
            cluster.restore(),
        ];
        table.row(&[nodes as usize, tasks], &row);
    }
}

fn replicas() {
    println!("\nOne service of many replicas on one network; µs.\n");
    let mut table = Table::new(&[
        "nodes",
        "replicas",
        "step, one change",
        "`Report`, one task",
        "scale by one",
        "step, one change in an update",
        "`WithdrawTask` of the update",
    ]);
    for (nodes, replicas) in [(10, 100), (100, 1_000), (1_000, 10_000)] {
        let mut cluster = Cluster::of(nodes, 1);
        let fewer = replicas - FEW as u32;
        cluster.apply(create("s0".to_owned(), fewer, "n0"));
        cluster.deploy();
        cluster.run_all();
        let task = |round: usize| format!("s0.{}", 1 + round);
        let step_after = |cluster: &mut Cluster| {
            median(ROUNDS, |round| {
                cluster.change(task(round));
                cluster.timed_step()
            })
        };
        let stepped = step_after(&mut cluster);
        let reported = median(ROUNDS, |round| cluster.change(task(round)));
        let scaled = median(FEW, |round| {
            let replicas = fewer + 1 + round as u32;
            let service = "s0".to_owned();
            cluster.apply(ServiceCommand::Scale { service, replicas }.into())
        });
        cluster.deploy();
        cluster.run_all();
        assert!(cluster.step().is_empty(), "the cluster is at rest");
        cluster.update("s0", UPDATED);
        let commands = cluster.step();
        assert_eq!(commands.len(), UPDATED as usize);
        let mut withdrawn: Vec<Duration> = commands
            .into_iter()
            .map(|command| cluster.apply(command))
            .collect();
        withdrawn.sort();
        let withdrawn = withdrawn[withdrawn.len() / 2];
        let updating = step_after(&mut cluster);
        let row = [stepped, reported, scaled, updating, withdrawn];
        table.row(&[nodes as usize, replicas as usize], &row);
    }
}

fn services() {
    println!("\nServices without replicas on one network; µs.\n");
    let mut table = Table::new(&["services", "create", "scale by one", "find by name"]);
    for services in [50, 500, 5_000] {
        let mut cluster = Cluster::of(100, 1);
        for number in 0..services {
            cluster.apply(create(format!("s{number}"), 0, "n0"));
        }
        let created = median(ROUNDS, |round| {
            cluster.apply(create(format!("more{round}"), 0, "n0"))
        });
        let scaled = median(ROUNDS, |round| {
            let service = format!("more{round}");
            let replicas = 1;
            cluster.apply(ServiceCommand::Scale { service, replicas }.into())
        });
        let query = Query::Service("s7".to_owned());
        let found = median(ROUNDS, |_| timed(|| cluster.state.answer(None, &query)).0);
        table.row(&[services], &[created, scaled, found]);
    }
}

fn containers() {
    println!("\nContainers of CNI runtimes on 100 nodes and 20 networks; µs.\n");
    let mut table = Table::new(&["containers", "attach", "detach", "attach with a port"]);
    for containers in [1_000, 10_000, 30_000] {
        let mut cluster = Cluster::of(100, 20);
        for number in 0..containers {
            cluster.apply(attach(number, None));
        }
        let number = |round: usize| containers + round as u64;
        let attached = median(ROUNDS, |round| cluster.apply(attach(number(round), None)));
        let detached = median(ROUNDS, |round| {
            let keys = vec![key(number(round))];
            cluster.apply(ContainerCommand::Detach { keys }.into())
        });
        let publishing = median(ROUNDS, |round| {
            let port = 1 + round as u16;
            cluster.apply(attach(number(round), Some(port)))
        });
        table.row(&[containers as usize], &[attached, detached, publishing]);
    }
}

fn networks() {
    println!("\nNetworks with default subnets, 100 nodes; µs.\n");
    let mut table = Table::new(&["networks", "create"]);
    for networks in [50, 500, 5_000] {
        let mut cluster = Cluster::of(100, 0);
        for number in 0..networks {
            cluster.apply(create_network(format!("d{number}"), None));
        }
        let created = median(ROUNDS, |round| {
            cluster.apply(create_network(format!("more{round}"), None))
        });
        table.row(&[networks], &[created]);
    }
}

fn deployment() {
    println!("\n`service create --replicas`: processor time until every task has a node.\n");
    println!(
        "| nodes | other tasks | replicas | commands | entries | bytes | steps | step and apply | \
         of it step | longest step |"
    );
    println!("|{}", "---|".repeat(10));
    for (nodes, others, replicas) in [
        (100, 0, 1_000),
        (100, 0, 10_000),
        (100, 10_000, 10_000),
        (1_000, 0, 10_000),
    ] {
        let mut cluster = Cluster::filled(nodes, others, 1);
        cluster.apply(create("large".to_owned(), replicas, "n0"));
        let deployed = cluster.deploy();
        println!(
            "| {nodes} | {others} | {replicas} | {} | {} | {} | {} | {:.3} s | {:.3} s | \
             {:.1} ms |",
            deployed.commands,
            deployed.entries,
            deployed.bytes,
            deployed.steps,
            deployed.stepping_and_applying.as_secs_f64(),
            deployed.stepping.as_secs_f64(),
            deployed.longest.as_secs_f64() * 1e3
        );
    }
}

/// Rows of a Markdown table, each time with its ratio to that of the first row.
struct Table {
    first: Vec<Duration>,
}

impl Table {
    fn new(columns: &[&str]) -> Self {
        println!("| {} |", columns.join(" | "));
        println!("|{}", "---|".repeat(columns.len()));
        Self { first: Vec::new() }
    }

    fn row(&mut self, sizes: &[usize], times: &[Duration]) {
        if self.first.is_empty() {
            self.first = times.to_vec();
        }
        let sizes = sizes.iter().map(usize::to_string);
        let times = times.iter().zip(&self.first).map(|(time, first)| {
            let micros = time.as_secs_f64() * 1e6;
            let ratio = time.as_secs_f64() / first.as_secs_f64();
            format!("{micros:.1} ({ratio:.1})")
        });
        println!("| {} |", sizes.chain(times).collect::<Vec<_>>().join(" | "));
    }
}

/// What it took until every task had a node.
#[derive(Default)]
struct Deployed {
    commands: usize,
    entries: usize,
    bytes: usize,
    steps: usize,
    stepping: Duration,
    stepping_and_applying: Duration,
    longest: Duration,
}

struct Cluster {
    state: State,
    agenda: Agenda,
    index: u64,
    now: Millis,
}

impl Cluster {
    /// The first node is a manager; all are ready. Networks are `n0`, `n1` and so on.
    fn of(nodes: u64, networks: u8) -> Self {
        let mut cluster = Self {
            state: State::default(),
            agenda: Agenda::default(),
            index: 0,
            now: 1_000_000,
        };
        let authority = Authority {
            root_certificate: "root".to_owned(),
            root_key: "key".to_owned(),
            worker_secret: Secret::new(1),
            manager_secret: Secret::new(2),
        };
        let bootstrap = ClusterCommand::Bootstrap {
            authority,
            node: node(1),
            data_path_port: 4789,
        };
        cluster.apply(bootstrap.into());
        while cluster.state.level() < Level::NEWEST {
            let level = cluster.state.level().next();
            cluster.apply(ClusterCommand::RaiseLevel { level }.into());
        }
        for number in 2..=nodes {
            let node = node(number);
            cluster.apply(Command::Node(NodeCommand::Admit { node }));
        }
        for number in 0..networks {
            let subnet = format!("10.{}.0.0/14", u32::from(number) * 4);
            cluster.apply(create_network(format!("n{number}"), Some(&subnet)));
        }
        cluster
    }

    /// With so many tasks, all of which run.
    fn filled(nodes: u64, tasks: usize, networks: u8) -> Self {
        let mut cluster = Self::of(nodes, networks);
        for number in 0..tasks / REPLICAS as usize {
            let network = format!("n{}", number % usize::from(networks));
            cluster.apply(create(format!("s{number}"), REPLICAS, &network));
        }
        cluster.deploy();
        cluster.run_all();
        assert!(cluster.step().is_empty(), "the cluster is at rest");
        cluster
    }

    /// Applies a command; how long that takes.
    fn apply(&mut self, command: Command) -> Duration {
        self.index += 1;
        let chance = command
            .needs_chance(Level::NEWEST)
            .then(|| EpochKey::new([7; 32]));
        let entry = Entry {
            request: RequestId(self.index),
            now: self.now,
            chance,
            command,
        };
        let (time, applied) = timed(|| self.state.apply(self.index, entry));
        applied.response.unwrap();
        time
    }

    fn step(&mut self) -> Vec<Command> {
        self.state.step(&mut self.agenda, self.now)
    }

    fn timed_step(&mut self) -> Duration {
        timed(|| self.step()).0
    }

    fn step_with_a_new_agenda(&self) -> Duration {
        let mut agenda = Agenda::default();
        busy(|| self.state.step(&mut agenda, self.now))
    }

    /// Steps until nothing is left to do.
    fn deploy(&mut self) -> Deployed {
        let mut deployed = Deployed::default();
        let start = processor_time();
        loop {
            let begin = processor_time();
            let (time, commands) = timed(|| self.step());
            deployed.stepping += processor_time() - begin;
            deployed.longest = deployed.longest.max(time);
            if commands.is_empty() {
                deployed.stepping_and_applying = processor_time() - start;
                return deployed;
            }
            let size = |command| serde_json::to_vec(command).unwrap().len();
            let sizes: Vec<usize> = commands.iter().map(size).collect();
            deployed.steps += 1;
            deployed.commands += commands.len();
            deployed.bytes += sizes.iter().sum::<usize>();
            deployed.entries += entries(&sizes);
            for command in commands {
                self.apply(command);
            }
        }
    }

    /// Every node reports that its tasks run and that it has applied everything.
    fn run_all(&mut self) {
        let Answer::Tasks(tasks) = self.state.answer(None, &Query::Tasks(None)).unwrap() else {
            panic!("no tasks")
        };
        let mut reports: BTreeMap<NodeId, Vec<TaskReport>> = BTreeMap::new();
        for task in tasks {
            let report = TaskReport::new(task.id, TaskState::Running);
            let node = task.node_id.unwrap();
            reports.entry(node).or_default().push(report);
        }
        let nodes: Vec<NodeId> = self.state.nodes().keys().copied().collect();
        for node in nodes {
            let tasks = reports.remove(&node).unwrap_or_default();
            self.report(node, tasks);
        }
    }

    fn report(&mut self, node: NodeId, tasks: Vec<TaskReport>) -> Duration {
        let report = NodeReport {
            tasks,
            ..NodeReport::new(node, AHEAD)
        };
        self.apply(Command::Node(NodeCommand::Report(report)))
    }

    /// One task says something new.
    fn change(&mut self, name: String) -> Duration {
        let Answer::Tasks(tasks) = self.state.answer(None, &Query::Task(name)).unwrap() else {
            panic!("no task")
        };
        let report = TaskReport {
            message: format!("at {}", self.index),
            ..TaskReport::new(tasks[0].id, TaskState::Running)
        };
        self.report(tasks[0].node_id.unwrap(), vec![report])
    }

    fn step_after_a_change(&mut self) -> Duration {
        median(ROUNDS, |round| {
            self.change(some_task(round));
            self.timed_step()
        })
    }

    /// The first task of each of 20 services leaves because of an update.
    fn withdrawal(&mut self) -> Duration {
        median(20, |round| {
            self.update(&format!("s{round}"), 1);
            let is_withdrawal =
                |command: &Command| matches!(command, Command::Task(TaskCommand::Withdraw { .. }));
            let commands = self.step();
            let withdraw = commands.into_iter().find(is_withdrawal).unwrap();
            self.apply(withdraw)
        })
    }

    /// Every task of a service is to be replaced, so many at a time.
    fn update(&mut self, service: &str, parallelism: u32) {
        let query = Query::Service(service.to_owned());
        let Answer::Services(services) = self.state.answer(None, &query).unwrap() else {
            panic!("no service")
        };
        let mut spec = services[0].spec.clone();
        spec.update = UpdatePolicy {
            parallelism,
            delay: 0,
            order: UpdateOrder::StopFirst,
            on_failure: UpdateFailure::Pause,
        };
        let update = ServiceCommand::Update {
            service: service.to_owned(),
            spec,
            version: services[0].version,
            force: true,
        };
        self.apply(update.into());
    }

    fn restore(&self) -> Duration {
        let snapshot = self.state.snapshot();
        median(FEW, |_| busy(|| State::restore(&snapshot, Level::NEWEST)))
    }
}

/// One of the tasks that fill the state.
fn some_task(round: usize) -> String {
    format!("s{}.{}", round % 20, 1 + round)
}

/// How many entries of the log commands of these sizes take.
fn entries(sizes: &[usize]) -> usize {
    let (mut entries, mut commands, mut bytes) = (0, 0, 0);
    for size in sizes {
        if commands == 0 || commands == ENTRY.0 || bytes + size > ENTRY.1 {
            entries += 1;
            (commands, bytes) = (0, 0);
        }
        commands += 1;
        bytes += size;
    }
    entries
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let done = black_box(work());
    (start.elapsed(), done)
}

/// The processor time of what takes so long that other work of the machine gets between.
fn busy<T>(work: impl FnOnce() -> T) -> Duration {
    let start = processor_time();
    let done = black_box(work());
    let time = processor_time() - start;
    drop(done);
    time
}

/// What this thread has had of its processor.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    now.into()
}

fn median(rounds: usize, measure: impl FnMut(usize) -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..rounds).map(measure).collect();
    times.sort();
    times[times.len() / 2]
}

fn node(number: u64) -> Node {
    let [.., high, low] = number.to_be_bytes();
    Node {
        id: NodeId(number),
        hostname: format!("h{number}"),
        address: ([192, 168, high, low], 2377).into(),
        vtep: [192, 168, high, low].into(),
        role: if number == 1 {
            Role::Manager
        } else {
            Role::Worker
        },
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

/// A network with this subnet, or with default ones.
fn create_network(name: String, subnet: Option<&str>) -> Command {
    let subnets = subnet.into_iter().map(|text| SubnetSpec {
        subnet: text.parse().unwrap(),
        gateway: None,
        range: None,
    });
    let spec = NetworkSpec {
        name,
        driver: Driver::Overlay,
        subnets: subnets.collect(),
        internal: false,
        encrypted: false,
        attachable: true,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    };
    Command::Network(NetworkCommand::Create { spec })
}

fn create(name: String, replicas: u32, network: &str) -> Command {
    let task = TaskSpec::new(Runtime::Exec {
        argv: vec!["sleep".to_owned(), "infinity".to_owned()],
        env: BTreeMap::new(),
        rootfs: None,
    });
    let spec = ServiceSpec {
        replicas,
        networks: vec![NetworkAttachment::new(network)],
        ..ServiceSpec::new(name, task)
    };
    ServiceCommand::Create { spec }.into()
}

/// An interface on one of 100 nodes.
fn key(number: u64) -> ContainerKey {
    ContainerKey {
        node: NodeId(1 + number % 100),
        runtime: ContainerRuntime::Cni,
        id: format!("{number:064x}/eth0"),
    }
}

fn attach(number: u64, port: Option<u16>) -> Command {
    let wish = AddressWish {
        wanted: true,
        ..AddressWish::default()
    };
    let publish = port.map(|published| PublishSpec {
        published,
        target: 80,
        count: 1,
        protocol: Protocol::Tcp,
        mode: PublishMode::Host,
        at: PublishAt::Everywhere,
        allow: Vec::new(),
    });
    let traits = ContainerTraits {
        name: format!("c{number}"),
        publish: publish.into_iter().collect(),
        ..ContainerTraits::default()
    };
    let spec = ContainerSpec {
        key: key(number),
        network: format!("n{}", number % 20),
        ipv4: wish,
        ipv6: wish,
        mac: None,
        sandbox: Some(Sandbox {
            path: format!("/run/netns/{number}"),
            identity: Some(format!("boot/{number}")),
            interface: Some("eth0".to_owned()),
        }),
        left: false,
        traits: Some(traits),
    };
    let spec = Box::new(spec);
    ContainerCommand::Attach { spec }.into()
}
