//! Networks that ports of the host lead into.

use model::{Balance, Protocol, PublishAt, PublishMode, PublishSpec, PublishedConfig, Publisher};

use super::*;
use crate::ports::Ports;

/// A network with this identifier, with a port of the host that leads there.
fn add(config: &mut NodeConfig, id: u64, vni: u32) {
    let network = NetworkConfig {
        name: format!("n{id}"),
        vni: Vni::try_from(vni).unwrap(),
        ..network()
    };
    config.networks.insert(NetworkId(id), network);
    let port = PublishedConfig {
        owner: format!("service s{id}"),
        network: NetworkId(id),
        spec: PublishSpec {
            published: 61_000 + u16::try_from(id).unwrap(),
            target: 80,
            count: 1,
            protocol: Protocol::Sctp,
            mode: PublishMode::Ingress,
            at: PublishAt::Everywhere,
            allow: Vec::new(),
        },
        balance: Balance::default(),
        real_servers: BTreeMap::new(),
    };
    let key = (Publisher::Service(ServiceId(id)), "000".to_owned());
    config.published.insert(key, port);
}

fn diverted(desired: &Desired) -> Vec<NetworkId> {
    desired.diverted.keys().copied().collect()
}

#[test]
fn of_two_networks_with_one_mark_the_first_keeps_its_ports() {
    let mut config = config();
    add(&mut config, 20, 4244 + 2048);
    add(&mut config, 21, 4244);
    add(&mut config, 22, 4245);
    let mut ground = ground(Some(1500));
    let fresh = Desired::of(&config, &ground);
    // Identifiers count up: the older network is the first.
    assert_eq!(diverted(&fresh), [NetworkId(21), NetworkId(22)]);
    // Those that are led into already keep their ports.
    ground.led = [NetworkId(20)].into();
    let desired = Desired::of(&config, &ground);
    assert_eq!(diverted(&desired), [NetworkId(20), NetworkId(22)]);
    let mut ports = Ports::default();
    ports.reconcile(&Arc::new(config.clone()), &Arc::new(desired.clone()));
    let told: Vec<String> = ports
        .failures
        .iter()
        .map(|failure| failure.why.in_one_line())
        .collect();
    let [told] = &told[..] else {
        panic!("{told:?}")
    };
    for said in [
        "61021->80/sctp of service s21",
        "n21",
        "n20",
        "4244",
        "6292",
        "; next: ",
    ] {
        assert!(told.contains(said), "{said} in {told}");
    }
    assert_eq!(ports.open.diversion.ports.len(), 2);
    // Nobody waits for it.
    let status = judge(&config, &desired, &[], Vec::new());
    assert!(status.settled, "{status:?}");
}

#[test]
fn network_that_lacks_a_link_holds_up_itself_alone() {
    let mut config = config();
    add(&mut config, 20, 4300);
    let desired = Desired::of(&config, &ground(Some(1500)));
    let mut observed = kernel(&desired);
    let network = Place::Inside(Namespace::Network(NetworkId(20)));
    let link = names::vxlan_link(Vni::try_from(4300).unwrap());
    space_of(&mut observed, network).forget(&link);
    let status = judge(&config, &desired, &plan(&desired, &observed), Vec::new());
    assert_eq!(
        (status.settled, status.behind),
        (false, Some([NetworkId(20)].into()))
    );
    let mut observed = kernel(&desired);
    let uplink = names::uplink_link(Vni::try_from(4300).unwrap());
    space_of(&mut observed, Place::Host).forget(&uplink);
    let status = judge(&config, &desired, &plan(&desired, &observed), Vec::new());
    assert!(!status.settled);
}
