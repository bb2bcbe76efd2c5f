//! Tests of inputs as Podman 5.4 and netavark 1.14 write them, without a daemon.

use std::net::IpAddr;

use api::{Attached, CniInterface, CniName, ContainerRequest};
use model::{
    Container, ContainerKey, ContainerRuntime, ContainerTraits, Driver, EndpointId, Kind, Level,
    Mac, NetworkId, NetworkInfo, NetworkSpec, NetworkStatus, NodeId, Refusal, SubnetLease, Vni,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{explain_missing, network, read, run, setup};

const NAMESPACE: &str = "/run/netns/netns-d16c415a-d388-004f-aa33-d25634c0dc99";
const CONTAINER: &str = "cb2d2c6102f7e1fe69152b11dfa2920d633d888a96f1335926209bec8b71252b";

/// Of `podman network create --driver netd-netavark -o netd.network=my-net dbnet`.
const CREATE: &str = r#"{"name":"dbnet",
"id":"20cd59c255999d16230b85701741fc016c894e3516b18da18495a64f144b6860","driver":"netd-netavark",
"created":"0001-01-01T00:00:00Z","ipv6_enabled":false,"internal":false,"dns_enabled":true,
"options":{"netd.network":"my-net"}}"#;

/// Of `podman run --name web --network dbnet:ip=10.0.9.77,ip=fd00:9::77,mac=02:00:00:00:00:77,
/// alias=db,netd.service=web,netd.port=http=80 -p 8080:80 -p 127.0.0.1:5000-5002:5000-5002/udp`.
const SETUP: &str = r#"{"container_id":
"cb2d2c6102f7e1fe69152b11dfa2920d633d888a96f1335926209bec8b71252b","container_name":"web",
"port_mappings":[
{"container_port":80,"host_ip":"","host_port":8080,"protocol":"tcp","range":1},
{"container_port":5000,"host_ip":"127.0.0.1","host_port":5000,"protocol":"udp","range":3}],
"network":{"dns_enabled":false,"driver":"netd-netavark",
"id":"1efe90db77206391e70bc675a90c4fe333f5ff29a3bac660470aefcb7b4ad4b7","internal":false,
"ipv6_enabled":false,"name":"dbnet","network_interface":null,
"options":{"netd.network":"my-net"},"ipam_options":{"driver":"none"},"subnets":null,
"routes":null,"network_dns_servers":null},
"network_options":{"aliases":["db","cb2d2c6102f7"],"interface_name":"eth0",
"static_ips":["10.0.9.77","fd00:9::77"],"static_mac":"02:00:00:00:00:77",
"options":{"netd.port":"http=80","netd.service":"web"}}}"#;

/// A recorded input with changes at JSON pointers.
fn changed<T: DeserializeOwned>(input: &str, changes: &[(&str, Value)]) -> Result<T, Refusal> {
    let mut value: Value = serde_json::from_str(input).unwrap();
    for (pointer, new) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let fields = value.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        fields.insert(key.to_owned(), new.clone());
    }
    read(value.to_string().as_bytes())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn leases() -> Vec<SubnetLease> {
    let lease = |subnet: &str, gateway: &str| SubnetLease {
        subnet: subnet.parse().unwrap(),
        gateway: ip(gateway),
    };
    vec![
        lease("10.0.9.0/24", "10.0.9.1"),
        lease("fd00:9::/64", "fd00:9::1"),
    ]
}

fn my_net() -> NetworkInfo {
    NetworkInfo {
        id: NetworkId(1),
        spec: NetworkSpec {
            name: "my-net".into(),
            driver: Driver::Overlay,
            subnets: Vec::new(),
            internal: false,
            encrypted: false,
            attachable: true,
            labels: [].into(),
            options: [("mtu".to_owned(), "1400".to_owned())].into(),
        },
        status: NetworkStatus {
            reach: model::Reach::default(),
            vni: Vni::try_from(4097).unwrap(),
            subnets: leases(),
            exhausted: Vec::new(),
            endpoints: Vec::new(),
            created: 0,
        },
        version: 1,
        level: Level::NEWEST,
    }
}

/// `create` as it ends where the cluster's network is this one.
fn created(changes: &[(&str, Value)], network: &NetworkInfo) -> Result<Value, Refusal> {
    let asked: network::Asked = changed(CREATE, changes)?;
    asked.refuse_unsupported()?;
    asked.described(network)
}

#[test]
fn a_network_is_told_as_the_cluster_has_it() {
    let asked: network::Asked = changed(CREATE, &[]).unwrap();
    assert_eq!(asked.of_cluster(), "my-net");
    let expected = json!({
        "name": "dbnet",
        "id": "20cd59c255999d16230b85701741fc016c894e3516b18da18495a64f144b6860",
        "driver": "netd-netavark",
        "created": "0001-01-01T00:00:00Z",
        "subnets": [{ "subnet": "10.0.9.0/24", "gateway": "10.0.9.1" },
            { "subnet": "fd00:9::/64", "gateway": "fd00:9::1" }],
        "ipv6_enabled": true,
        "internal": false,
        "dns_enabled": false,
        "ipam_options": { "driver": "none" },
        "options": { "netd.network": "my-net" },
    });
    assert_eq!(created(&[], &my_net()).unwrap(), expected);
}

#[test]
fn a_network_without_options_has_its_own_name_in_the_cluster() {
    let changes = [("/options", Value::Null), ("/ipam_options", Value::Null)];
    let asked: network::Asked = changed(CREATE, &changes).unwrap();
    assert_eq!(asked.of_cluster(), "dbnet");
    let created = created(&changes, &my_net()).unwrap();
    assert_eq!(created["options"], json!({ "netd.network": "dbnet" }));
}

#[test]
fn options_that_match_are_taken_and_unknown_fields_are_kept() {
    let subnets = json!([{ "subnet": "10.0.9.0/24", "gateway": "10.0.9.1" },
        { "subnet": "fd00:9::/64" }]);
    let options = json!({ "netd.network": "my-net", "mtu": "1400", "encrypted": "false",
        "driver": "overlay" });
    let changes = [
        ("/subnets", subnets),
        ("/options", options.clone()),
        ("/ipv6_enabled", json!(true)),
        ("/labels", json!({ "a": "b" })),
        ("/of_a_newer_podman", json!([7])),
    ];
    let created = created(&changes, &my_net()).unwrap();
    assert_eq!(
        (&created["options"], &created["labels"]),
        (&options, &json!({ "a": "b" }))
    );
    assert_eq!(created["of_a_newer_podman"], json!([7]));
}

#[test]
fn an_internal_network_is_internal_and_has_no_gateway() {
    let mut internal = my_net();
    internal.spec.internal = true;
    for asked in [false, true] {
        let created = created(&[("/internal", json!(asked))], &internal).unwrap();
        assert_eq!(created["internal"], true);
        assert_eq!(created["subnets"][0], json!({ "subnet": "10.0.9.0/24" }));
    }
}

#[test]
fn options_that_do_not_match_are_refused_by_name() {
    for (pointer, new, words) in [
        (
            "/subnets",
            json!([{ "subnet": "10.0.8.0/24" }]),
            ["10.0.8.0/24", "--subnet"],
        ),
        (
            "/subnets",
            json!([{ "subnet": "10.0.9.0/24", "gateway": "10.0.9.9" }]),
            ["10.0.9.9", "--gateway"],
        ),
        ("/internal", json!(true), ["way out", "--internal"]),
        (
            "/options",
            json!({ "encrypted": "" }),
            ["encrypted", "-o encrypted"],
        ),
        ("/options", json!({ "mtu": "1500" }), ["mtu=1500", "-o mtu"]),
        ("/options", json!({ "vlan": "5" }), ["vlan=5", "-o vlan"]),
        (
            "/network_interface",
            json!("eth7"),
            ["eth7", "--interface-name"],
        ),
        (
            "/ipam_options",
            json!({ "driver": "dhcp" }),
            ["dhcp", "--ipam-driver"],
        ),
        (
            "/subnets",
            json!([{ "subnet": "10.0.9.0/24", "lease_range": { "start_ip": "10.0.9.9" } }]),
            ["--ip-range", "--ip-range"],
        ),
        (
            "/routes",
            json!([{ "destination": "10.7.0.0/16", "gateway": "10.0.9.3" }]),
            ["--route", "--route"],
        ),
        (
            "/network_dns_servers",
            json!(["9.9.9.9"]),
            ["--dns", "--dns"],
        ),
        (
            "/dns_enabled",
            json!(false),
            ["--disable-dns", "--disable-dns"],
        ),
    ] {
        let refusal = created(&[(pointer, new)], &my_net()).unwrap_err();
        let [cause, next] = words;
        assert!(
            refusal.cause.contains(cause) && refusal.next.contains(next),
            "{}",
            refusal.in_one_line()
        );
    }
    let mut four = my_net();
    four.status.subnets.truncate(1);
    let refusal = created(&[("/ipv6_enabled", json!(true))], &four).unwrap_err();
    assert!(refusal.next.contains("--ipv6"), "{}", refusal.in_one_line());
    let mut services = my_net();
    services.spec.attachable = false;
    let refusal = created(&[], &services).unwrap_err();
    assert_eq!(refusal.kind, Kind::Precondition);
}

#[test]
fn a_network_that_is_missing_is_made_by_hand() {
    let missing = Refusal::not_found("network", "my-net", "swarmctl network ls");
    let explained = explain_missing(missing);
    assert!(
        explained
            .next
            .contains("swarmctl network create --attachable")
            && explained.next.contains("-o netd.network=NAME"),
        "{}",
        explained.in_one_line()
    );
    let away = Refusal::new(Kind::Unavailable, "no leader", "wait");
    assert_eq!(explain_missing(away.clone()), away);
}

#[track_caller]
fn add(changes: &[(&str, Value)]) -> CniInterface {
    let asked: setup::Asked = changed(SETUP, changes).unwrap();
    asked.checked(NAMESPACE).unwrap()
}

#[test]
fn an_interface_is_asked_for_with_all_that_netavark_says_of_it() {
    let asked = add(&[]);
    let published = asked.traits.publish.iter().map(ToString::to_string);
    let published: Vec<String> = published.collect();
    assert_eq!(
        published,
        [
            "*:8080->80/tcp (host)",
            "127.0.0.1:5000-5002->5000-5002/udp (host)"
        ]
    );
    let mut traits = ContainerTraits {
        container: CONTAINER.into(),
        name: "web".into(),
        aliases: ["db".to_owned()].into(),
        publish: asked.traits.publish.clone(),
        ..ContainerTraits::default()
    };
    traits.take_label("netd.service", "web").unwrap();
    traits.take_label("netd.port", "http=80").unwrap();
    let expected = CniInterface {
        name: CniName {
            container: CONTAINER.into(),
            interface: "eth0".into(),
            own: None,
        },
        network: "my-net".into(),
        sandbox: NAMESPACE.into(),
        only_addresses: false,
        addresses: vec![ip("10.0.9.77"), ip("fd00:9::77")],
        mac: Some(Mac([2, 0, 0, 0, 0, 0x77])),
        traits,
    };
    assert_eq!(asked, expected);
}

#[test]
fn unset_fields_are_left_to_the_cluster() {
    let changes = [
        ("/port_mappings", Value::Null),
        ("/network/options", Value::Null),
        (
            "/network_options",
            json!({ "interface_name": "eth0", "aliases": null, "static_ips": null,
                "static_mac": "", "options": null }),
        ),
    ];
    let asked = add(&changes);
    assert_eq!(asked.network, "dbnet");
    assert!(asked.addresses.is_empty() && asked.mac.is_none());
    let bare = ContainerTraits {
        container: CONTAINER.into(),
        name: "web".into(),
        ..ContainerTraits::default()
    };
    assert_eq!(asked.traits, bare);
}

#[test]
fn a_port_may_have_several_protocols() {
    let mapping = json!([{ "container_port": 53, "host_ip": "0.0.0.0", "host_port": 53,
        "protocol": "tcp,UDP,sctp", "range": 0 }]);
    let asked = add(&[("/port_mappings", mapping)]);
    let published = asked.traits.publish.iter().map(ToString::to_string);
    assert_eq!(
        published.collect::<Vec<_>>(),
        ["tcp", "udp", "sctp"].map(|name| format!("0.0.0.0:53->53/{name} (host)"))
    );
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let mapping = |host: u64, container: u64, range: u64, protocol: &str| {
        json!([{ "host_port": host, "container_port": container, "host_ip": "",
            "range": range, "protocol": protocol }])
    };
    for (pointer, new) in [
        ("/container_id", json!("")),
        ("/container_id", json!("a/b")),
        ("/container_id", json!("c".repeat(201))),
        ("/network_options/interface_name", json!("")),
        ("/network_options/interface_name", json!("sixteen-letters-")),
        ("/network_options/interface_name", json!("a/b")),
        (
            "/network_options/static_ips",
            json!(["10.0.9.5", "10.0.9.6"]),
        ),
        ("/network_options/static_ips", json!(["x"])),
        ("/network_options/static_mac", json!("01:00:5e:00:00:01")),
        ("/network_options/options", json!({ "netd.port": "x" })),
        ("/network_options/options", json!({ "mtu": "1400" })),
        ("/port_mappings", mapping(0, 80, 1, "tcp")),
        ("/port_mappings", mapping(80, 0, 1, "tcp")),
        ("/port_mappings", mapping(65_536, 80, 1, "tcp")),
        ("/port_mappings", mapping(65_535, 80, 2, "tcp")),
        ("/port_mappings", mapping(80, 65_000, 65_535, "tcp")),
        ("/port_mappings", mapping(80, 80, 1, "icmp")),
    ] {
        let asked = changed::<setup::Asked>(SETUP, &[(pointer, new.clone())]);
        let refusal = asked
            .and_then(|asked| asked.checked(NAMESPACE))
            .unwrap_err();
        assert!(
            refusal.kind == Kind::Invalid && !refusal.next.is_empty(),
            "{pointer} {new}: {}",
            refusal.in_one_line()
        );
    }
    let asked: setup::Asked = changed(SETUP, &[]).unwrap();
    assert!(asked.checked("blue").unwrap_err().cause.contains("blue"));
}

fn attached() -> Attached {
    Attached {
        container: Container {
            id: EndpointId(1),
            key: ContainerKey {
                node: NodeId(1),
                runtime: ContainerRuntime::Cni,
                id: "c1/eth0".into(),
            },
            network: NetworkId(1),
            addresses: vec![ip("10.0.9.77"), ip("fd00:9::77")],
            mac: Mac([2, 0, 0, 0, 0, 0x77]),
            sandbox: None,
            traits: ContainerTraits::default(),
            created: 0,
        },
        subnets: leases(),
        internal: false,
        ways_out: vec![ip("10.0.9.1"), ip("fd00:9::1")],
        mtu: Some(1450),
        resolvers: vec![ip("10.0.9.1"), ip("fd00:9::1")],
    }
}

#[test]
fn the_status_block_names_our_resolver() {
    let asked = add(&[]);
    let mut expected = json!({
        "dns_search_domains": [],
        "dns_server_ips": ["10.0.9.1", "fd00:9::1"],
        "interfaces": { "eth0": { "mac_address": "02:00:00:00:00:77", "subnets": [
            { "ipnet": "10.0.9.77/24", "gateway": "10.0.9.1" },
            { "ipnet": "fd00:9::77/64", "gateway": "fd00:9::1" },
        ] } },
    });
    assert_eq!(setup::status(&asked, &attached()), expected);
    let internal = Attached {
        internal: true,
        ways_out: Vec::new(),
        ..attached()
    };
    let subnets = json!([{ "ipnet": "10.0.9.77/24" }, { "ipnet": "fd00:9::77/64" }]);
    expected["interfaces"]["eth0"]["subnets"] = subnets;
    assert_eq!(setup::status(&asked, &internal), expected);
}

#[test]
fn ports_lead_to_networks_that_others_reach() {
    let mut network = my_net();
    assert_eq!(setup::leads_nowhere(&network), None);
    network.spec.driver = Driver::Macvlan;
    assert_eq!(setup::leads_nowhere(&network), Some("is of the hosts' LAN"));
    network.spec.internal = true;
    assert_eq!(setup::leads_nowhere(&network), Some("is internal"));
}

#[test]
fn teardown_needs_nothing_that_may_be_missing_or_wrong() {
    let broken = [
        ("/port_mappings", json!("x")),
        ("/network", json!(7)),
        (
            "/network_options",
            json!({ "interface_name": "eth1", "static_ips": 7 }),
        ),
    ];
    let left: setup::Left = changed(SETUP, &broken).unwrap();
    for (namespace, sandbox) in [(NAMESPACE, Some(NAMESPACE)), ("", None)] {
        let ContainerRequest::Del {
            name,
            sandbox: told,
        } = left.request(namespace)
        else {
            panic!("DEL")
        };
        assert_eq!(
            (name.container.as_str(), name.interface.as_str(), name.own),
            (CONTAINER, "eth1", None)
        );
        assert_eq!(told.as_deref(), sandbox);
    }
}

#[test]
fn words_that_are_no_operation_are_refused() {
    for words in [
        &["setup"][..],
        &["teardown", "/a", "/b"],
        &["create", "x"],
        &["add"],
        &["Info"],
    ] {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let refusal = run(&words).unwrap_err();
        assert!(refusal.cause.contains("teardown NAMESPACE"), "{refusal}");
    }
}
