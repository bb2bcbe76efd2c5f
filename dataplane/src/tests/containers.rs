//! Containers that others run.

use super::*;

/// A container of others on this host, in the place of the task.
const GUEST: Place = Place::Inside(Namespace::Container(SandboxId(8)));

fn with_container(interface: Option<&str>) -> NodeConfig {
    let mut config = config();
    config.tasks.clear();
    config.endpoints.get_mut(&EndpointId(1)).unwrap().sandbox = SandboxId(8);
    let interface = interface.map(str::to_owned);
    let joint = ContainerEndpoint {
        id: EndpointId(1),
        interface,
        bandwidth: Default::default(),
    };
    let container = ContainerConfig {
        runtime: ContainerRuntime::Cni,
        name: "db".to_owned(),
        path: "/run/netns/db".to_owned(),
        identity: None,
        endpoints: vec![joint],
        leaves_elsewhere: false,
    };
    config.containers.insert(SandboxId(8), container);
    config
}

fn alive() -> Ground {
    Ground {
        alive: BTreeSet::from([SandboxId(8)]),
        ..ground(Some(1500))
    }
}

#[test]
fn in_a_sandbox_of_others_only_what_is_ours_is_made_and_removed() {
    let desired = Desired::of(&with_container(Some("net1")), &alive());
    let mut observed = kernel(&desired);
    assert_eq!(plan(&desired, &observed), []);
    let foreign = ObservedLink {
        index: 50,
        kind: ObservedKind::Other,
        mac: None,
        mtu: 1500,
        up: true,
        ours: false,
    };
    let ours = ObservedLink {
        index: 51,
        ours: true,
        ..foreign.clone()
    };
    let links = &mut space_of(&mut observed, GUEST).links;
    links.insert(LinkName::parse("eth0").unwrap(), foreign);
    links.insert(LinkName::parse("eth7").unwrap(), ours);
    let ops: Vec<String> = plan(&desired, &observed)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ops, ["netd-c-0000000000008: delete link eth7"]);
    // A way out of theirs wins.
    let default = |space: &Space<Link>| {
        space
            .routes
            .keys()
            .find(|key| key.destination.prefix() == 0)
            .unwrap()
            .metric
    };
    assert_eq!(default(&desired.spaces[&GUEST]), 1024);
    // Theirs is not ours to make.
    observed.spaces.remove(&GUEST);
    assert!(
        !plan(&desired, &observed)
            .iter()
            .any(|op| op.change == Change::CreateNamespace)
    );
}

#[test]
fn a_container_whose_namespace_is_gone_leaves_nothing_behind() {
    let config = with_container(Some("net1"));
    let desired = Desired::of(&config, &ground(Some(1500)));
    assert_eq!(
        (desired.sandboxes.len(), desired.spaces.contains_key(&GUEST)),
        (0, false)
    );
    let ops = plan(&desired, &kernel(&Desired::of(&config, &alive())));
    let ops: Vec<String> = ops.iter().map(ToString::to_string).collect();
    assert!(
        ops.contains(&"netd-c-0000000000008: delete namespace".to_owned()),
        "{ops:?}"
    );
}

#[test]
fn a_device_that_a_runtime_takes_is_made_once() {
    let config = with_container(None);
    // Its namespace may not be there yet.
    let desired = Desired::of(&config, &ground(Some(1500)));
    assert!(desired.sandboxes.contains_key(&SandboxId(8)) && !desired.spaces.contains_key(&GUEST));
    let mut observed = kernel(&desired);
    let outer = names::endpoint_link(EndpointId(1));
    space_of(&mut observed, NETWORK).forget(&outer);
    let ops = plan(&desired, &observed);
    let pair = ops
        .iter()
        .find_map(|op| {
            if let Change::AddPair(pair) = &op.change {
                Some(pair)
            } else {
                None
            }
        })
        .unwrap();
    assert_eq!(
        (&pair.near, pair.place, &pair.far),
        (&outer, Place::Host, &names::handed_link(EndpointId(1)))
    );
    // Whether it lies on the host or has been taken, nothing is left to do.
    let mut observed = kernel(&desired);
    assert_eq!(plan(&desired, &observed), []);
    let waiting = ObservedLink {
        index: 99,
        kind: ObservedKind::Veth(1),
        mac: None,
        mtu: 1450,
        up: false,
        ours: false,
    };
    space_of(&mut observed, Place::Host)
        .links
        .insert(names::handed_link(EndpointId(1)), waiting);
    assert_eq!(plan(&desired, &observed), []);
    let gone = plan(&Desired::default(), &observed);
    let handed = Change::DeleteLink(names::handed_link(EndpointId(1)));
    assert!(
        gone.iter()
            .any(|op| op.place == Place::Host && op.change == handed)
    );
}
