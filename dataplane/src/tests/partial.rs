//! What is made from an earlier result is what is made from nothing.

use proptest::prelude::*;

use model::{Balance, Bandwidth, VirtualServiceConfig};

use super::*;
use crate::{
    ports::Open,
    rules::{Grounds, rewanted, wanted},
};

/// Endpoints that there may be.
const ENDPOINTS: usize = 10;
/// The sandboxes that they are of in turn: tasks, then containers.
const TASKS: u64 = 3;
const SANDBOXES: u64 = 5;

/// What one endpoint is: whether there is any, its network and its host.
type Choice = (bool, u64, u64);

/// A view and what goes with it, as choices.
#[derive(Clone, Debug)]
struct Choices {
    endpoints: Vec<Choice>,
    /// Whether a container is alive, whether it is taken there by its engine, and its limit.
    containers: Vec<(bool, bool, u64)>,
    /// Whether a network has a service.
    services: Vec<bool>,
}

fn choice() -> impl Strategy<Value = Choice> {
    (proptest::bool::weighted(0.8), 0..4_u64, 1..3_u64)
}

fn choices() -> impl Strategy<Value = Choices> {
    let endpoints = prop::collection::vec(choice(), ENDPOINTS);
    let containers = prop::collection::vec((any::<bool>(), any::<bool>(), 0..2_u64), 2);
    let services = prop::collection::vec(any::<bool>(), 3);
    (endpoints, containers, services).prop_map(|(endpoints, containers, services)| Choices {
        endpoints,
        containers,
        services,
    })
}

/// One of them made anew.
#[derive(Clone, Debug)]
enum Step {
    Endpoint(usize, Choice),
    Container(usize, (bool, bool, u64)),
    Service(usize, bool),
    Nothing,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..ENDPOINTS, choice()).prop_map(|(at, choice)| Step::Endpoint(at, choice)),
        2 => (0..2_usize, (any::<bool>(), any::<bool>(), 0..2_u64))
            .prop_map(|(at, choice)| Step::Container(at, choice)),
        1 => (0..3_usize, any::<bool>()).prop_map(|(at, choice)| Step::Service(at, choice)),
        1 => Just(Step::Nothing),
    ]
}

impl Choices {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Endpoint(at, choice) => self.endpoints[*at] = *choice,
            Step::Container(at, choice) => self.containers[*at] = *choice,
            Step::Service(at, choice) => self.services[*at] = *choice,
            Step::Nothing => {}
        }
    }

    fn view(&self) -> (NodeConfig, Ground) {
        let mut view = super::config();
        view.networks.clear();
        view.endpoints.clear();
        view.tasks.clear();
        for number in 0..4_u64 {
            let record = overlay(number);
            let lan = DriverConfig::Macvlan {
                parent: "eth0".parse().unwrap(),
                mode: MacvlanMode::Bridge,
            };
            let driver = if number == 3 {
                lan
            } else {
                record.driver.clone()
            };
            view.networks
                .insert(NetworkId(number), NetworkConfig { driver, ..record });
        }
        let mut joined: BTreeMap<u64, Vec<EndpointId>> = BTreeMap::new();
        for (at, (is_there, network, node)) in self.endpoints.iter().enumerate() {
            let (at, id) = (at as u64, EndpointId(at as u64 + 1));
            let addresses = vec![
                ip(&format!("10.0.{network}.{}", at + 10)),
                ip(&format!("fd00:{network}::{}", at + 10)),
            ];
            let record = EndpointConfig {
                network: NetworkId(*network),
                node: NodeId(*node),
                sandbox: SandboxId(at % SANDBOXES + 1),
                mac: Mac::of_endpoint(addresses[0]),
                addresses,
            };
            if *is_there {
                view.endpoints.insert(id, record);
                if *node == 1 {
                    joined.entry(at % SANDBOXES).or_default().push(id);
                }
            }
        }
        let mut alive = BTreeSet::new();
        for (sandbox, endpoints) in joined {
            let id = SandboxId(sandbox + 1);
            if sandbox < TASKS {
                view.tasks.insert(
                    TaskId(id.0),
                    TaskConfig {
                        endpoints,
                        ..task()
                    },
                );
                continue;
            }
            let (lives, is_handed, rate) = self.containers[(sandbox - TASKS) as usize];
            lives.then(|| alive.insert(id));
            let joint = |(at, id): (usize, EndpointId)| ContainerEndpoint {
                id,
                interface: (!is_handed).then(|| format!("net{at}")),
                bandwidth: Bandwidth {
                    egress_rate: rate * 1_000_000,
                    ..Bandwidth::default()
                },
            };
            let container = ContainerConfig {
                runtime: ContainerRuntime::Cni,
                name: "db".to_owned(),
                path: "/run/netns/db".to_owned(),
                identity: None,
                endpoints: endpoints.into_iter().enumerate().map(joint).collect(),
                leaves_elsewhere: false,
            };
            view.containers.insert(id, container);
        }
        for (network, _) in self.services.iter().enumerate().filter(|(_, has)| **has) {
            let service = VirtualServiceConfig {
                name: "web".to_owned(),
                vips: vec![ip(&format!("10.0.{network}.2"))],
                balance: Balance::default(),
                real_servers: BTreeMap::from([(ip(&format!("10.0.{network}.10")), 1)]),
            };
            let key = (NetworkId(network as u64), ServiceId(1));
            view.services.insert(key, service);
        }
        let eth0 = HostLink {
            mac: Some(Mac([2, 0, 0, 0, 0, 9])),
            mtu: 1500,
            stacked: None,
        };
        let links = BTreeMap::from([(link_name("eth0"), eth0)]);
        let ground = Ground {
            alive,
            links,
            ..ground(Some(1500))
        };
        (view, ground)
    }
}

fn overlay(number: u64) -> NetworkConfig {
    let vni = Vni::try_from(100 + number as u32).unwrap();
    let leases = [
        (format!("10.0.{number}.0/24"), format!("10.0.{number}.1")),
        (format!("fd00:{number}::/64"), format!("fd00:{number}::1")),
    ];
    NetworkConfig {
        name: format!("n{number}"),
        vni,
        subnets: leases
            .iter()
            .map(|(subnet, gateway)| lease(subnet, gateway))
            .collect(),
        internal: number == 2,
        reach: model::Reach {
            hosts: number == 1,
            ..model::Reach::default()
        },
        ..network()
    }
}

proptest! {
    #[test]
    fn later_results_from_earlier_ones_are_those_from_nothing(
        mut choices in choices(),
        steps in prop::collection::vec(step(), 1..8),
    ) {
        let (mut view, mut stood) = choices.view();
        let mut desired = Desired::of(&view, &stood);
        let mut observed = Observed::default();
        let mut ops = plan(&desired, &observed);
        let grounds = |view: &NodeConfig, observed: &Observed| Grounds {
            config: Arc::new(view.clone()),
            observed: Arc::new(observed.clone()),
            open: Arc::new(Open::default()),
        };
        let mut last = grounds(&view, &observed);
        let mut rules = wanted(&last);
        for step in &steps {
            // The kernel takes it over, or lacks a namespace for now.
            let before = (desired.clone(), observed.clone());
            let mut found = kernel(&desired);
            for (place, space) in &mut found.spaces {
                if let Some(same) = observed.spaces.get(place).filter(|same| *same == space) {
                    space.clone_from(same);
                }
            }
            observed = found;
            ops = replan((&before.0, &before.1, &ops), &desired, &observed);
            prop_assert_eq!(&ops, &plan(&desired, &observed));

            choices.take(step);
            let (next, ground) = choices.view();
            let asked = desired.after((&view, &stood), &next, &ground);
            prop_assert_eq!(&asked, &Desired::of(&next, &ground));
            ops = replan((&desired, &observed, &ops), &asked, &observed);
            prop_assert_eq!(&ops, &plan(&asked, &observed));
            (view, stood, desired) = (next, ground, asked);

            let now = grounds(&view, &observed);
            rules = rewanted(&last, &rules, &now);
            prop_assert_eq!(&rules, &wanted(&now));
            last = now;
        }
    }
}
