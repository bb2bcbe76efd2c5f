//! Views at size: one leader with the real state, and up to a thousand nodes that have a session
//! with it over TLS on loopback. The nodes live in a second process and have no kernel: they take
//! in what they are sent and note when. A filled state proposes nothing of its own, so that only
//! views are measured. Prints the tables of docs/benchmarks.md.
//!
//! `views NODES TASKS NETWORKS` runs one setting, `views deploy NODES REPLICAS` makes a service
//! with so many tasks, which the leader places.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use api::{Proposal, decode, proto::Json};
use cluster::{Bare, Config, Host, JoinOptions, Member, Upward};
use futures::{StreamExt, stream::FuturesUnordered};
use model::*;
use orchestrator::{Sections, State};
use serde::{Deserialize, de::IgnoredAny};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;

/// Tasks of a service.
const REPLICAS: u32 = 50;
const CHANGES: usize = 40;
/// Nodes of the network that few nodes are on.
const FEW: usize = 3;
/// Nodes that join at a time.
const JOINING: usize = 8;
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn main() {
    raise_limit();
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match &words[..] {
        [kind, address, token, nodes] if kind == "nodes" || kind == "arrivals" => {
            let (address, nodes) = (address.parse().unwrap(), nodes.parse().unwrap());
            let reads = match kind.as_str() {
                "nodes" => Reads::Tasks,
                _ => Reads::Nothing,
            };
            runtime.block_on(nodes_of(address, token.clone(), nodes, reads));
        }
        [kind, nodes, replicas] if kind == "deploy" => {
            let (nodes, replicas) = (nodes.parse().unwrap(), replicas.parse().unwrap());
            runtime.block_on(deploy(nodes, replicas));
        }
        [nodes, tasks, networks] => {
            let [nodes, tasks, networks] = [nodes, tasks, networks].map(|it| it.parse().unwrap());
            runtime.block_on(lead(nodes, tasks, networks));
        }
        _ => all(),
    }
}

/// Each setting in processes of its own: memory is part of the result.
fn all() {
    println!(
        "| nodes | tasks | networks | one change reaches | p50 | p99 | leader's CPU per change |"
    );
    println!("|---|---|---|---|---|---|---|");
    let settings = [
        (100, 10_000, 20),
        (1_000, 10_000, 20),
        (100, 50_000, 20),
        (1_000, 50_000, 20),
        (100, 10_000, 1),
        (1_000, 10_000, 1),
        (10, 10_000, 20),
    ];
    for (nodes, tasks, networks) in settings {
        run(&[nodes, tasks, networks].map(|number: usize| number.to_string()));
    }
    println!(
        "\n| nodes | replicas | commands | entries | bytes | steps | every task has a node | \
         leader's CPU | every node has its view | leader's CPU |"
    );
    println!("|{}", "---|".repeat(10));
    for nodes in ["100", "1000"] {
        run(&["deploy", nodes, "10000"].map(str::to_owned));
    }
}

fn run(words: &[String]) {
    let mut setting = Command::new(std::env::current_exe().unwrap());
    assert!(setting.args(words).status().unwrap().success());
}

fn raise_limit() {
    let files = rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(files);
    limit.current = limit.maximum;
    rustix::process::setrlimit(files, limit).unwrap();
}

/// The real state. Asked to, it fills itself, and proposes no steps from then on.
#[derive(Default)]
struct Filled {
    state: State,
    is_filled: bool,
    /// The log index applied last.
    applied: u64,
}

/// What the log has had to carry, and how many tasks have been placed.
#[derive(Default)]
struct Counts {
    commands: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    steps: AtomicU64,
    placed: AtomicU64,
}

static COUNTS: Counts = Counts {
    commands: AtomicU64::new(0),
    entries: AtomicU64::new(0),
    bytes: AtomicU64::new(0),
    steps: AtomicU64::new(0),
    placed: AtomicU64::new(0),
};

impl Counts {
    fn count(&self, entry: &Entry) {
        let bytes = serde_json::to_vec(&entry.command).unwrap().len();
        self.commands.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let model::Command::Task(TaskCommand::Assign { .. }) = entry.command {
            self.placed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Commands, entries, bytes and steps.
    fn read(&self) -> [u64; 4] {
        [&self.commands, &self.entries, &self.bytes, &self.steps]
            .map(|count| count.load(Ordering::Relaxed))
    }
}

/// Follows the state inside.
#[derive(Default)]
struct Inside(Sections);

impl Projector<Filled> for Inside {
    fn follow(&mut self, state: &Filled, touched: Option<&Touched>, views: &mut Views) {
        self.0.follow(&state.state, touched, views);
    }

    fn own(&mut self, state: &Filled, node: NodeId) -> Own {
        self.0.own(&state.state, node)
    }
}

impl StateMachine for Filled {
    type Agenda = orchestrator::Agenda;
    type Projector = Inside;

    fn apply(&mut self, index: u64, entry: Entry) -> Applied {
        let filling = match &entry.command {
            model::Command::Service(ServiceCommand::Scale { service, .. }) => {
                service.strip_prefix("fill ").map(str::to_owned)
            }
            _ => None,
        };
        if std::mem::replace(&mut self.applied, index) != index {
            COUNTS.entries.fetch_add(1, Ordering::Relaxed);
        }
        match filling {
            None => {
                COUNTS.count(&entry);
                self.state.apply(index, entry)
            }
            Some(what) => {
                let mut numbers = what.split(' ').map(|word| word.parse().unwrap());
                let (tasks, networks) = (numbers.next().unwrap(), numbers.next().unwrap());
                self.fill(index, tasks, networks)
            }
        }
    }

    fn level(&self) -> Level {
        self.state.level()
    }

    fn revision(&self) -> u64 {
        self.state.revision()
    }

    fn present(&self, after: Option<ObjectRef>, limit: usize) -> Vec<Change> {
        self.state.present(after, limit)
    }

    fn progress(&self, service: &str) -> Result<Progress, Refusal> {
        self.state.progress(service)
    }

    fn freeze(&self) -> Self {
        Self {
            state: self.state.freeze(),
            ..*self
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        self.state.snapshot()
    }

    fn restore(bytes: &[u8], known: Level) -> Result<Self, RestoreError> {
        let state = State::restore(bytes, known)?;
        Ok(Self {
            state,
            ..Self::default()
        })
    }

    fn authority(&self) -> Option<&Authority> {
        self.state.authority()
    }

    fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        self.state.nodes()
    }

    fn concerns(&self, node: NodeId, concern: &Concern) -> bool {
        self.state.concerns(node, concern)
    }

    fn view(&self, node: NodeId) -> NodeConfig {
        self.state.view(node)
    }

    fn step(&self, agenda: &mut Self::Agenda, now: Millis) -> Vec<model::Command> {
        if self.is_filled {
            return Vec::new();
        }
        let commands = self.state.step(agenda, now);
        if !commands.is_empty() {
            COUNTS.steps.fetch_add(1, Ordering::Relaxed);
        }
        commands
    }

    fn answer(&self, leader: Option<NodeId>, query: &Query) -> Result<Answer, Refusal> {
        self.state.answer(leader, query)
    }
}

impl Filled {
    /// Running tasks in services of fifty, in turn on these networks and on all workers; and one
    /// service on a network of its own, on few of them.
    fn fill(&mut self, index: u64, tasks: usize, networks: usize) -> Applied {
        self.is_filled = true;
        let mut filling = Filling {
            state: &mut self.state,
            index,
            requests: 1 << 60,
            changes: Vec::new(),
        };
        let workers = filling.state.nodes().values();
        let workers: Vec<NodeId> = workers
            .filter(|node| node.role == Role::Worker)
            .map(|node| node.id)
            .collect();
        for number in 0..networks {
            filling.network(&format!("n{number}"), number);
        }
        filling.network("few", networks);
        let mut placed = 0;
        for number in 0..tasks / REPLICAS as usize {
            let network = format!("n{}", number % networks);
            filling.service(&format!("s{number}"), &network, || {
                placed += 1;
                workers[placed % workers.len()]
            });
        }
        let few = &workers[..FEW.min(workers.len())];
        let mut placed = 0;
        filling.service("few", "few", || {
            placed += 1;
            few[placed % few.len()]
        });
        Applied {
            response: Ok(Outcome::Done),
            changes: filling.changes,
            concern: Concern {
                everybody: true,
                ..Concern::default()
            },
        }
    }
}

struct Filling<'a> {
    state: &'a mut State,
    index: u64,
    requests: u64,
    changes: Vec<Change>,
}

impl Filling<'_> {
    fn apply(&mut self, command: impl Into<model::Command>) -> Outcome {
        self.requests += 1;
        let applied = self.state.apply(
            self.index,
            Entry {
                request: RequestId(self.requests),
                now: 1,
                chance: None,
                command: command.into(),
            },
        );
        self.changes.extend(applied.changes);
        applied.response.unwrap()
    }

    fn network(&mut self, name: &str, number: usize) {
        let spec = network(name, number);
        self.apply(NetworkCommand::Create { spec });
    }

    fn service(&mut self, name: &str, network: &str, mut node: impl FnMut() -> NodeId) {
        let spec = ServiceSpec {
            name: name.to_owned(),
            replicas: REPLICAS,
            networks: vec![NetworkAttachment::new(network)],
            ..sample()
        };
        let Outcome::Service(service) = self.apply(ServiceCommand::Create { spec }) else {
            panic!("no service");
        };
        for slot in 1..=REPLICAS {
            let Outcome::Task(task) = self.apply(TaskCommand::Create { service, slot }) else {
                panic!("no task");
            };
            let node = node();
            self.apply(TaskCommand::Assign { task, node });
            let report = NodeReport {
                tasks: vec![TaskReport::new(task, TaskState::Running)],
                ..NodeReport::new(node, 0)
            };
            self.apply(NodeCommand::Report(report));
        }
    }
}

fn network(name: &str, number: usize) -> NetworkSpec {
    let subnet = SubnetSpec {
        subnet: format!("10.{}.0.0/16", 16 + number).parse().unwrap(),
        gateway: None,
        range: None,
    };
    NetworkSpec {
        name: name.to_owned(),
        driver: Driver::Overlay,
        subnets: vec![subnet],
        internal: false,
        encrypted: false,
        attachable: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    }
}

/// A service that runs something.
fn sample() -> ServiceSpec {
    let argv = vec!["sleep".to_owned(), "infinity".to_owned()];
    let task = TaskSpec::new(Runtime::Exec {
        argv,
        env: BTreeMap::new(),
        rootfs: None,
    });
    ServiceSpec::new("", task)
}

/// Leads a cluster of its own, in a directory that goes with the first of these.
async fn leader() -> (tempfile::TempDir, Member<Filled>, TokenInfo) {
    let home = tempfile::tempdir().unwrap();
    let config = Config {
        directory: home.path().to_owned(),
        listen: LOOPBACK,
        known: Level::NEWEST,
        history: Default::default(),
    };
    let host = Host {
        hostname: "leader".to_owned(),
        advertise: LOOPBACK,
        vtep: LOOPBACK.ip(),
    };
    let leader = Member::<Filled>::init(config, host, 4789, |_| Routes::default())
        .await
        .unwrap();
    let Answer::Token(token) = leader.query(Query::Token(Role::Worker)).await.unwrap() else {
        panic!("no token");
    };
    (home, leader, token)
}

/// Makes a service of many replicas once the nodes are there.
async fn deploy(nodes: usize, replicas: u32) {
    let (_home, leader, token) = leader().await;
    let mut child = Nodes::start("arrivals", &token, nodes);
    assert_eq!(child.line().await.as_deref(), Some("fill"));
    settled(&leader, nodes + 1).await;
    propose(
        &leader,
        NetworkCommand::Create {
            spec: network("n", 0),
        },
    )
    .await;
    let (idle, idle_from) = (cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = (cpu() - idle).as_secs_f64() / idle_from.elapsed().as_secs_f64();
    let (spent, begun, counts) = (cpu(), Instant::now(), COUNTS.read());
    let busy = || {
        let passed = begun.elapsed().as_secs_f64();
        (passed, (cpu() - spent).as_secs_f64() - idle * passed)
    };
    let spec = ServiceSpec {
        name: "large".to_owned(),
        replicas,
        networks: vec![NetworkAttachment::new("n")],
        ..sample()
    };
    propose(&leader, ServiceCommand::Create { spec }).await;
    while COUNTS.placed.load(Ordering::Relaxed) < u64::from(replicas) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let placed = busy();
    child.say("deployed");
    let last = child.line().await.unwrap();
    assert!(!last.starts_with("error"), "{last}");
    let shown = busy();
    let [commands, entries, bytes, steps] = COUNTS.read();
    let last = begun.elapsed().as_secs_f64() - last.parse::<f64>().unwrap();
    println!(
        "| {nodes} | {replicas} | {} | {} | {} | {} | {:.2} s | {:.2} s | {last:.2} s | {:.2} s |",
        commands - counts[0],
        entries - counts[1],
        bytes - counts[2],
        steps - counts[3],
        placed.0,
        placed.1,
        shown.1,
    );
    leader.shutdown().await;
}

async fn propose(leader: &Member<Filled>, command: impl Into<model::Command>) {
    let request = RequestId(COUNTS.commands.load(Ordering::Relaxed) + (1 << 32));
    let command = command.into();
    let done = leader.propose(Proposal { request, command }).await;
    done.unwrap();
}

/// Leads, and does what the nodes' process asks for, one word a line.
async fn lead(nodes: usize, tasks: usize, networks: usize) {
    let (_home, leader, token) = leader().await;
    let mut child = Nodes::start("nodes", &token, nodes);
    let mut cells = Vec::new();
    while let Some(line) = child.line().await {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("fill", _) => {
                settled(&leader, nodes + 1).await;
                let service = format!("fill {tasks} {networks}");
                let replicas = 0;
                propose(&leader, ServiceCommand::Scale { service, replicas }).await;
                child.say("filled");
            }
            ("cpu", _) => child.say(&cpu().as_nanos().to_string()),
            ("cell", text) => cells.push(text.to_owned()),
            ("error", text) => panic!("{text}"),
            _ => break,
        }
    }
    let memory = memory();
    for cell in cells {
        println!("| {nodes} | {tasks} | {networks} | {cell} |");
    }
    println!("| {nodes} | {tasks} | {networks} | leader's memory: {memory} MB | | | |");
    leader.shutdown().await;
}

/// All nodes are ready, and at the newest level.
async fn settled(leader: &Member<Filled>, count: usize) {
    loop {
        let Answer::Nodes(nodes) = leader.query(Query::Nodes).await.unwrap() else {
            panic!("no nodes");
        };
        let ready = nodes.iter().filter(|node| node.status == NodeStatus::Ready);
        let level = leader.digest().unwrap().level;
        if ready.count() == count && level == Level::NEWEST {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The other process.
struct Nodes {
    _child: Child,
    input: ChildStdin,
    output: Option<BufReader<ChildStdout>>,
}

impl Nodes {
    fn start(kind: &str, token: &TokenInfo, nodes: usize) -> Self {
        let (address, nodes) = (token.address.to_string(), nodes.to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([kind, &address, &token.token, &nodes])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: child.stdout.take().map(BufReader::new),
            _child: child,
        }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    async fn line(&mut self) -> Option<String> {
        let mut output = self.output.take()?;
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            (line, output)
        });
        let (line, output) = read.await.unwrap();
        self.output = Some(output);
        (!line.is_empty()).then(|| line.trim().to_owned())
    }
}

/// Processor time of this process so far.
fn cpu() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let of = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        let used = text.split(' ').next().and_then(|word| word.parse().ok());
        used.unwrap_or(0)
    };
    Duration::from_nanos(tasks.map(|task| of(task.unwrap().path())).sum())
}

/// Resident memory in MB.
fn memory() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes / 1024
}

/// Tells the leader's process something and reads its answer.
fn ask(line: &str) -> String {
    println!("{line}");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).unwrap();
    answer.trim().to_owned()
}

/// One node: how to send, and what it has been sent.
struct Station {
    node: NodeId,
    up: mpsc::Sender<Upward>,
    /// Messages that changed its view.
    changes: AtomicU64,
    /// Bytes of them.
    bytes: AtomicU64,
    /// When the last one came, in ns since the start.
    last: AtomicU64,
    seen: tokio::sync::watch::Sender<u64>,
    /// Its tasks, with the names of their services.
    tasks: Mutex<Vec<(TaskId, String)>>,
}

/// A task's record.
#[derive(Deserialize)]
struct Named {
    service_name: String,
}

#[derive(Deserialize)]
struct Message {
    kind: String,
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Delta {
    from: Option<u64>,
    to: u64,
    #[serde(rename = "set")]
    _set: IgnoredAny,
    #[serde(rename = "remove")]
    _remove: IgnoredAny,
}

/// What nodes make of what they are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// They look for their tasks, and whether a change follows on the last one.
    Tasks,
    /// They note that it came: a thousand readers would take the leader's processors.
    Nothing,
}

/// Messages of at least this many bytes are read one after the other.
const LARGE: usize = 64 << 10;
static READER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn nodes_of(address: SocketAddr, token: String, count: usize, reads: Reads) {
    let start = Instant::now();
    let mut stations = Vec::new();
    let mut joining = FuturesUnordered::new();
    for number in 0..count {
        let options = JoinOptions {
            token: token.clone(),
            manager: address,
            hostname: format!("node-{number}"),
            advertise: None,
            vtep: None,
        };
        joining.push(open(options, start, reads));
        if joining.len() == JOINING {
            stations.extend(joining.next().await);
        }
    }
    while let Some(station) = joining.next().await {
        stations.push(station);
    }
    let done = ask("fill");
    quiet(&stations).await;
    if done == "deployed" {
        let times = stations.iter().map(|it| it.last.load(Ordering::Relaxed));
        let last = Duration::from_nanos(times.max().unwrap_or_default());
        println!("{}", (start.elapsed() - last).as_secs_f64());
        return;
    }
    let few = measure(&stations, "few", start).await;
    println!("cell {few}");
    let many = measure(&stations, "many", start).await;
    println!("cell {many}");
    println!("end");
}

async fn open(options: JoinOptions, start: Instant, reads: Reads) -> Arc<Station> {
    let bare = Bare::join(options, Level::NEWEST).await.unwrap();
    let (up, upward) = mpsc::channel(64);
    let hello = Upward::Hello {
        node: bare.node(),
        generation: 0,
        digest: String::new(),
        level: Level::NEWEST,
    };
    up.send(hello).await.unwrap();
    let mut downward = Box::pin(bare.session(ReceiverStream::new(upward)).await.unwrap());
    let station = Arc::new(Station {
        node: bare.node(),
        up: up.clone(),
        changes: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        last: AtomicU64::new(0),
        seen: tokio::sync::watch::Sender::new(0),
        tasks: Mutex::default(),
    });
    let listening = station.clone();
    tokio::spawn(async move {
        let mut generation = 0;
        while let Some(message) = downward.next().await {
            if reads == Reads::Nothing {
                listening.note(&message.json, start.elapsed());
                continue;
            }
            let (station, now) = (listening.clone(), start.elapsed());
            generation = if message.json.len() < LARGE {
                station.take_in(&message, now, generation)
            } else {
                // A thousand readers would keep the connections from answering the leader's pings.
                let _turn = READER.lock().await;
                let read = move || station.take_in(&message, now, generation);
                tokio::task::spawn_blocking(read).await.unwrap()
            };
        }
        println!("error a session has ended");
    });
    tokio::spawn(async move {
        let _bare = bare;
        let mut alive = tokio::time::interval(Duration::from_millis(500));
        loop {
            alive.tick().await;
            if up.send(Upward::Alive).await.is_err() {
                return;
            }
        }
    });
    station
}

impl Station {
    fn note(&self, json: &[u8], now: Duration) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(json.len() as u64, Ordering::Relaxed);
        self.last.store(now.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Takes in a message of this time that follows on this generation. Returns the next one.
    fn take_in(&self, message: &Json, now: Duration, generation: u64) -> u64 {
        let told: Message = decode(message).unwrap();
        let Some(delta) = told.delta.filter(|_| told.kind == "change") else {
            return generation;
        };
        let follows = delta.from.is_none_or(|from| from == generation);
        assert!(follows, "a change does not follow on {generation}");
        self.read(&message.json, now);
        self.seen.send_replace(delta.to);
        delta.to
    }

    fn read(&self, json: &[u8], now: Duration) {
        self.note(json, now);
        let mark = b"\"task/";
        let mut tasks = Vec::new();
        for at in 0..json.len().saturating_sub(mark.len()) {
            if json[at] == b'"' && json[at..].starts_with(mark) {
                let id = &json[at + mark.len()..];
                let end = id.iter().position(|byte| *byte == b'"').unwrap();
                let (id, rest) = (std::str::from_utf8(&id[..end]).unwrap(), &id[end + 2..]);
                let mut records = serde_json::Deserializer::from_slice(rest).into_iter::<Named>();
                // What is removed is a key alone.
                if let Some(Ok(record)) = records.next() {
                    tasks.push((id.parse().unwrap(), record.service_name));
                }
            }
        }
        if !tasks.is_empty() {
            let mut known = self.tasks.lock().unwrap();
            tasks.retain(|task| !known.contains(task));
            known.extend(tasks);
        }
    }

    /// One of its tasks that has not failed yet.
    fn take_task(&self, which: &str) -> Option<TaskId> {
        let mut tasks = self.tasks.lock().unwrap();
        let is_meant = |(_, service): &(TaskId, String)| (service == "few") == (which == "few");
        let place = tasks.iter().position(is_meant)?;
        Some(tasks.remove(place).0)
    }
}

/// Nothing comes any more.
async fn quiet(stations: &[Arc<Station>]) {
    let sum = || -> u64 {
        let changes = stations.iter().map(|it| it.changes.load(Ordering::Relaxed));
        changes.sum()
    };
    let mut before = sum();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = sum();
        if now == before && now > 0 {
            return;
        }
        before = now;
    }
}

/// One task after the other fails; how long until the last node knows that is told.
async fn measure(stations: &[Arc<Station>], which: &str, start: Instant) -> String {
    let idle = cpu_of_leader();
    let idle_from = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle =
        cpu_of_leader().saturating_sub(idle).as_secs_f64() / idle_from.elapsed().as_secs_f64();
    let (mut times, mut reached) = (Vec::new(), 0);
    let (before, from) = (cpu_of_leader(), Instant::now());
    let mut bytes = 0;
    for number in 0..CHANGES {
        let (station, task) = pick(stations, which, number);
        let counts: Vec<u64> = stations
            .iter()
            .map(|it| it.changes.load(Ordering::Relaxed))
            .collect();
        let sizes: u64 = stations
            .iter()
            .map(|it| it.bytes.load(Ordering::Relaxed))
            .sum();
        let begun = start.elapsed().as_nanos() as u64;
        let report = NodeReport {
            tasks: vec![TaskReport::new(task, TaskState::Failed)],
            ..NodeReport::new(station.node, *station.seen.borrow())
        };
        let sequence = number as u64 + 1;
        let message = Upward::Report { sequence, report };
        station.up.send(message).await.unwrap();
        let last = after(stations, begun).await;
        times.push(last.saturating_sub(begun));
        let told = stations
            .iter()
            .zip(&counts)
            .filter(|(it, count)| it.changes.load(Ordering::Relaxed) > **count);
        reached = reached.max(told.count());
        let all: u64 = stations
            .iter()
            .map(|it| it.bytes.load(Ordering::Relaxed))
            .sum();
        bytes += all - sizes;
    }
    let spent =
        cpu_of_leader().saturating_sub(before).as_secs_f64() - idle * from.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize] as f64 / 1e6;
    format!(
        "{reached} nodes, {} bytes each | {:.1} ms | {:.1} ms | {:.2} ms",
        bytes / CHANGES as u64 / reached.max(1) as u64,
        at(0.5),
        at(0.99),
        spent.max(0.0) * 1e3 / CHANGES as f64,
    )
}

fn pick<'a>(
    stations: &'a [Arc<Station>],
    which: &str,
    number: usize,
) -> (&'a Arc<Station>, TaskId) {
    let turns = stations.iter().cycle().skip(number * 7 % stations.len());
    let mut turns = turns.take(stations.len());
    let found = turns.find_map(|station| Some((station, station.take_task(which)?)));
    found.unwrap()
}

/// When the last message came, once none has come for a while.
async fn after(stations: &[Arc<Station>], begun: u64) -> u64 {
    let newest = || {
        let times = stations.iter().map(|it| it.last.load(Ordering::Relaxed));
        times.max().unwrap_or_default()
    };
    let mut last = newest();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = newest();
        if now == last && now > begun {
            return now;
        }
        last = now;
    }
}

fn cpu_of_leader() -> Duration {
    Duration::from_nanos(ask("cpu").parse().unwrap())
}
