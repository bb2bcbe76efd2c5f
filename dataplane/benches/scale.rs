//! The data plane at size, in namespaces of its own: many networks on a host, many endpoints on a
//! network, many new ones at once. Prints times from a new configuration to a settled kernel,
//! processor time when idle, and memory.

#![allow(clippy::unwrap_used)]

#[path = "../tests/support/records.rs"]
mod records;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane::Status;
use model::{EndpointId, NetworkId, NodeConfig, NodeId, Subnet, SubnetLease, TaskId, Vni, names};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::sync::watch;

const OWN: NodeId = NodeId(1);
/// Other hosts.
const HOSTS: u64 = 50;
const IDLE: Duration = Duration::from_secs(20);
/// Endpoints that are added one by one.
const ONE_BY_ONE: u64 = 15;
/// Time for what follows a change, without the next periodic pass.
const SETTLES: Duration = Duration::from_millis(150);

fn main() {
    type Scene = fn(&mut Host);
    let scenes: [(&str, Scene); 4] = [
        ("networks", many_networks),
        ("locals", many_locals),
        ("remotes", many_remotes),
        ("burst", many_at_once),
    ];
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if let [name] = &asked[..] {
        let (_, scene) = scenes
            .iter()
            .find(|(known, _)| known == name)
            .expect("networks, locals, remotes or burst");
        return scene(&mut Host::new());
    }
    // Each in a process of its own: memory is part of the result.
    for (name, _) in scenes {
        assert!(
            Command::new(std::env::current_exe().unwrap())
                .arg(name)
                .status()
                .unwrap()
                .success()
        );
    }
}

fn many_networks(host: &mut Host) {
    let mut config = config();
    (0..200).for_each(|network| add_network(&mut config, network));
    (0..2000).for_each(|number| add_endpoint(&mut config, OWN, number % 200, number / 200));
    println!("200 networks with 10 endpoints each on one host");
    host.report("from nothing", config.clone());
    host.idle();
    host.one_by_one(&mut config, OWN, |number| (7 + number, 10));
    host.report(
        "all gone",
        NodeConfig {
            generation: 0,
            ..NodeConfig::empty(OWN)
        },
    );
}

fn many_locals(host: &mut Host) {
    let mut config = config();
    add_network(&mut config, 0);
    (0..100).for_each(|number| add_endpoint(&mut config, OWN, 0, number));
    println!("100 endpoints of one network on one host");
    host.report("from nothing", config.clone());
    host.idle();
    host.one_by_one(&mut config, OWN, |number| (0, 100 + number));
}

fn many_remotes(host: &mut Host) {
    let mut config = config();
    add_network(&mut config, 0);
    add_endpoint(&mut config, OWN, 0, 0);
    (1..=5000).for_each(|number| add_endpoint(&mut config, NodeId(2 + number % HOSTS), 0, number));
    println!("5000 endpoints of other hosts on one network");
    host.report("from nothing", config.clone());
    host.idle();
    host.one_by_one(&mut config, NodeId(2), |number| (0, 5001 + number));
    let inside = names::network_namespace(NetworkId(1));
    let flush = format!(
        "for f in -4 -6; do ip -n {inside} $f route flush table main; \
         ip -n {inside} $f neigh flush all nud permanent; done; \
         ip netns exec {inside} nft flush ruleset; nft flush ruleset; ip -n {inside} link del {}",
        names::vxlan_link(Vni::try_from(4096).unwrap())
    );
    let count = format!(
        "for f in -4 -6; do ip -n {inside} $f route | grep -c via; done; ip netns exec {inside} \
         nft list ruleset | wc -l"
    );
    let picture = || run(&count);
    let before = picture();
    run(&flush);
    let start = Instant::now();
    while picture() != before {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{}, once {before}",
            picture()
        );
    }
    println!(
        "  healed after a flush of everything: {:.2} s",
        start.elapsed().as_secs_f64()
    );
}

fn many_at_once(host: &mut Host) {
    let mut config = config();
    add_network(&mut config, 0);
    host.report("no endpoint", config.clone());
    (0..100).for_each(|number| add_endpoint(&mut config, OWN, 0, number));
    println!("100 endpoints at once on one host");
    let ready = host.apply(config);
    println!(
        "  ready: p50 {:.2} s, p99 {:.2} s",
        ready[49].as_secs_f64(),
        ready[98].as_secs_f64()
    );
}

/// A host in namespaces of this process, with its data plane.
struct Host {
    desired: watch::Sender<Arc<NodeConfig>>,
    status: watch::Receiver<Arc<Status>>,
    runtime: tokio::runtime::Runtime,
    generation: u64,
}

impl Host {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        mount(
            Some("tmpfs"),
            "/run",
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        run(
            "ip link set lo up; ip link add eth0 type veth peer name far; ip link set far up; \
             ip link set eth0 up; ip addr add 192.0.2.1/24 dev eth0",
        );
        let (desired, seen) = watch::channel(Arc::new(config()));
        let (status, _) = dataplane::spawn(seen, Path::new("/run"), |_| None, |_| ()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            desired,
            status,
            runtime,
            generation: 1,
        }
    }

    /// Returns when each task became ready, in order; the kernel is settled.
    fn apply(&mut self, mut config: NodeConfig) -> Vec<Duration> {
        self.generation += 1;
        config.generation = self.generation;
        let tasks = config.tasks.len();
        let start = Instant::now();
        self.desired.send_replace(Arc::new(config));
        let mut ready = Vec::new();
        self.runtime.block_on(async {
            loop {
                self.status.changed().await.unwrap();
                let status = self.status.borrow_and_update().clone();
                if status.generation < self.generation {
                    continue;
                }
                ready.resize(status.ready.len().max(ready.len()), start.elapsed());
                if status.settled {
                    assert_eq!(ready.len(), tasks);
                    ready.push(start.elapsed());
                    return;
                }
                println!("  not settled: {:?}", status.failures.first());
            }
        });
        ready
    }

    fn report(&mut self, what: &str, config: NodeConfig) {
        let taken = self.apply(config).pop().unwrap_or_default();
        println!(
            "  {what}: {:.2} s, resident memory {} MB",
            taken.as_secs_f64(),
            resident()
        );
    }

    /// Endpoints one after the other, each settled before the next; `at` says their networks and
    /// numbers.
    fn one_by_one(
        &mut self,
        config: &mut NodeConfig,
        node: NodeId,
        at: impl Fn(u64) -> (u64, u64),
    ) {
        let (mut taken, mut spent) = (Vec::new(), Vec::new());
        for number in 0..ONE_BY_ONE {
            let (network, number) = at(number);
            add_endpoint(config, node, network, number);
            let before = data_plane();
            taken.extend(self.apply(config.clone()).pop());
            // What the kernel says of it may cost another pass.
            std::thread::sleep(SETTLES);
            spent.push(data_plane() - before);
        }
        let spent = median(spent);
        println!(
            "  one more endpoint, median of {ONE_BY_ONE}: {:.1} ms, processor time {:.1} ms",
            median(taken).as_secs_f64() * 1000.0,
            spent.as_secs_f64() * 1000.0,
        );
    }

    fn idle(&self) {
        let (before, start) = (data_plane(), Instant::now());
        std::thread::sleep(IDLE);
        let share = (data_plane() - before).as_secs_f64() / start.elapsed().as_secs_f64();
        println!("  idle: {:.1} % of a processor", share * 100.0);
    }
}

fn run(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// In megabytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

/// Processor time that the threads of the data plane have had: this process' without this thread's.
fn data_plane() -> Duration {
    let [process, own] = [ClockId::ProcessCPUTime, ClockId::ThreadCPUTime].map(clock_gettime);
    let of = |time: Timespec| Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
    of(process) - of(own)
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

fn config() -> NodeConfig {
    let peer = |number: u64| {
        let vtep = IpAddr::from([192, 0, 2, number as u8]);
        records::peer(format!("h{number}"), vtep)
    };
    let peers = (1..2 + HOSTS)
        .map(|number| (NodeId(number), peer(number)))
        .collect();
    NodeConfig {
        generation: 1,
        peers,
        ..NodeConfig::empty(OWN)
    }
}

fn subnets(network: u64) -> [Subnet; 2] {
    let v4 = Ipv4Addr::from(0x0a00_0000 + ((network as u32) << 16));
    let v6 = Ipv6Addr::new(0xfd00, network as u16, 0, 0, 0, 0, 0, 0);
    [
        Subnet::around(v4.into(), 16).unwrap(),
        Subnet::around(v6.into(), 64).unwrap(),
    ]
}

/// Address number `number` of a network, both families; the first is the gateway's.
fn addresses(network: u64, number: u64) -> [IpAddr; 2] {
    let [v4, v6] = subnets(network).map(|subnet| subnet.network());
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4, v6) else {
        unreachable!()
    };
    let number = number as u32 + 1;
    [
        Ipv4Addr::from(u32::from(v4) + number).into(),
        Ipv6Addr::from(u128::from(v6) + u128::from(number)).into(),
    ]
}

fn add_network(config: &mut NodeConfig, network: u64) {
    let leases = subnets(network).into_iter().zip(addresses(network, 0));
    let subnets = leases.map(|(subnet, gateway)| SubnetLease { subnet, gateway });
    let vni = Vni::try_from(4096 + network as u32).unwrap();
    let record = records::overlay(&format!("n{network}"), vni, subnets.collect());
    config.networks.insert(NetworkId(network + 1), record);
}

fn add_endpoint(config: &mut NodeConfig, node: NodeId, network: u64, number: u64) {
    let id = network * 10_000 + number + 1;
    let addresses = addresses(network, number + 1).to_vec();
    let (endpoint, task) = (EndpointId(id), TaskId(id));
    let record = records::endpoint(NetworkId(network + 1), node, task.into(), addresses);
    config.endpoints.insert(endpoint, record);
    if node == OWN {
        config.tasks.insert(task, records::task(1, endpoint));
    }
}
