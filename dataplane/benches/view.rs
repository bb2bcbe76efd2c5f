//! What one change of a host's view costs the host: the processor time from the delta as received
//! until the data plane, the resolvers and the balancers have what they need of it, without the
//! kernel. Prints a Markdown table; times are in µs, medians.

#![allow(clippy::unwrap_used)]

#[path = "../tests/support/records.rs"]
mod records;

use std::{
    collections::BTreeMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use dataplane::desired::{Desired, Ground};
use model::{
    Balance, EndpointConfig, EndpointId, JoinedConfig, Level, NetworkConfig, NetworkId, NodeConfig,
    NodeId, OfferConfig, PeerConfig, SandboxId, ServiceId, SlotConfig, Subnet, SubnetLease,
    TaskConfig, TaskId, TaskState, ViewDelta, Vni,
};
use rustix::time::{ClockId, clock_gettime};

const OWN: NodeId = NodeId(1);
const HOSTS: u32 = 100;
const NETWORK: NetworkId = NetworkId(1);
const ROUNDS: u32 = 51;

fn main() {
    println!("| endpoints | of each service | delta | resolvers | balancers | data plane | all |");
    println!("|{}", "---|".repeat(7));
    for (endpoints, replicas) in [(100, 50), (1_000, 50), (10_000, 50), (10_000, 10_000)] {
        let mut host = Host::new(endpoints, replicas);
        let rounds: Vec<[Duration; 4]> = (0..ROUNDS).map(|round| host.change(round)).collect();
        let columns = [0, 1, 2, 3].map(|column| {
            let of_column = rounds.iter().map(|times| times[column]);
            micros(of_column.collect())
        });
        let all = micros(rounds.iter().map(|times| times.iter().sum()).collect());
        let columns = columns.map(|column| format!("{column:.0}")).join(" | ");
        println!("| {endpoints} | {replicas} | {columns} | {all:.0} |");
    }
}

/// A host that has one task in [`HOSTS`] endpoints of one network.
struct Host {
    config: NodeConfig,
    names: dns::Table,
    balanced: ipvs::Table,
    desired: Desired,
    ground: Ground,
    replicas: u32,
}

impl Host {
    fn new(endpoints: u32, replicas: u32) -> Self {
        let config = config(endpoints, replicas);
        let ground = Ground::default();
        Self {
            names: dns::Table::of(&config),
            balanced: ipvs::Table::of(&config, NETWORK),
            desired: Desired::of(&config, &ground),
            config,
            ground,
            replicas,
        }
    }

    /// A slot's task on another host is replaced by one that takes traffic, or takes none yet.
    fn change(&mut self, round: u32) -> [Duration; 4] {
        let number = 1 + round / 2;
        let mut later = self.config.clone();
        later.generation += 1;
        let (id, mut endpoint) = endpoint(number);
        endpoint.sandbox = SandboxId(u64::from(1_000_000 + round));
        later.endpoints.insert(id, endpoint);
        let (key, mut slot) = slot(number, self.replicas);
        if round.is_multiple_of(2) {
            slot.named = Some(Vec::new());
            slot.real_servers.clear();
        }
        later.slots.insert(key, slot);
        let delta = serde_json::to_vec(&self.config.delta(&later)).unwrap();
        drop(later);
        let before = self.config.clone();
        let received = busy(|| {
            let delta: ViewDelta = serde_json::from_slice(&delta).unwrap();
            self.config = self.config.apply(&delta).unwrap();
        });
        let resolved = busy(|| self.names.follow(&before, &self.config));
        let balanced = busy(|| {
            let table = ipvs::Table::of(&self.config, NETWORK);
            black_box(self.balanced.ops(&table));
            self.balanced = table;
        });
        let desired = busy(|| {
            let stood = (&before, &self.ground);
            self.desired = self.desired.after(stood, &self.config, &self.ground);
        });
        [received, resolved, balanced, desired]
    }
}

/// Processor time of this thread.
fn busy<T>(work: impl FnOnce() -> T) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let start = now();
    black_box(work());
    now() - start
}

fn micros(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn config(endpoints: u32, replicas: u32) -> NodeConfig {
    let mut config = NodeConfig {
        generation: 1,
        level: Level::SHARED_VIEWS,
        ..NodeConfig::empty(OWN)
    };
    config.peers = (1..=HOSTS).map(peer).collect();
    config.networks.insert(NETWORK, network());
    config.joined.insert(NETWORK, JoinedConfig {});
    for service in 0..endpoints.div_ceil(replicas) {
        let key = (NETWORK, ServiceId(u64::from(service)));
        config.offers.insert(key, offer(service));
    }
    for number in 0..endpoints {
        let (id, endpoint) = endpoint(number);
        if endpoint.node == OWN {
            let task = TaskId(endpoint.sandbox.0);
            config.tasks.insert(task, task_config(id));
        }
        config.endpoints.insert(id, endpoint);
        let (key, slot) = slot(number, replicas);
        config.slots.insert(key, slot);
    }
    config.derive();
    config
}

fn peer(number: u32) -> (NodeId, PeerConfig) {
    let address = Ipv4Addr::from(0xc000_0200 + number);
    let peer = records::peer(format!("h{number}"), address.into());
    (NodeId(u64::from(number)), peer)
}

fn network() -> NetworkConfig {
    let subnet = Subnet::around(address(0), 12).unwrap();
    let gateway = address(1);
    records::overlay("n", Vni::FIRST, vec![SubnetLease { subnet, gateway }])
}

fn offer(service: u32) -> OfferConfig {
    OfferConfig {
        name: format!("s{service}"),
        stack: None,
        aliases: Vec::new(),
        ports: Vec::new(),
        vips: vec![address(0x8_0000 + service)],
        balance: Balance::default(),
        removing: false,
        publish_not_ready: false,
    }
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn of_replica(number: u32) -> IpAddr {
    address(2 + number)
}

fn endpoint(number: u32) -> (EndpointId, EndpointConfig) {
    let node = NodeId(u64::from(1 + number % HOSTS));
    let sandbox = SandboxId(u64::from(number));
    let endpoint = records::endpoint(NETWORK, node, sandbox, vec![of_replica(number)]);
    (EndpointId(u64::from(number)), endpoint)
}

type SlotKey = (NetworkId, (ServiceId, u32));

fn slot(number: u32, replicas: u32) -> (SlotKey, SlotConfig) {
    let slot = SlotConfig {
        named: Some(vec![of_replica(number)]),
        real_servers: BTreeMap::from([(of_replica(number), 1)]),
    };
    let service = ServiceId(u64::from(number / replicas));
    ((NETWORK, (service, 1 + number % replicas)), slot)
}

fn task_config(endpoint: EndpointId) -> TaskConfig {
    TaskConfig {
        service: ServiceId(0),
        service_name: "s0".to_owned(),
        state: TaskState::Running,
        ..records::task(1, endpoint)
    }
}
