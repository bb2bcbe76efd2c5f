//! Tests of input and output formats against the specification, without a daemon.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use api::{Attached, CniInterface, CniName, ContainerRequest};
use model::{
    Bandwidth, Container, ContainerKey, ContainerRuntime, ContainerTraits, EndpointId, Kind, Mac,
    NetworkId, NodeId, PublishAt, Refusal, SubnetLease,
};
use serde_json::{Value, json};

use crate::{
    config::{self, Asked, Dns},
    environment::{Environment, Operation},
    error::{CniError, Code},
    result,
    version::Version,
};

const NAMESPACE: &str = "/run/netns/blue";

fn environment(changes: &[(&str, &str)]) -> Result<Environment, CniError> {
    let mut variables = BTreeMap::from([
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", NAMESPACE),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ]);
    variables.extend(changes.iter().copied());
    Environment::read(|name| variables.get(name).map(ToString::to_string))
}

fn configuration(changes: Value) -> Value {
    let mut configuration =
        json!({ "cniVersion": "1.1.0", "name": "dbnet", "type": "netd-cni", "network": "my-net" });
    let Value::Object(changes) = changes else {
        panic!("changes are fields")
    };
    configuration.as_object_mut().unwrap().extend(changes);
    configuration
}

fn read(variables: &[(&str, &str)], changes: Value) -> Result<Asked, CniError> {
    config::read(
        &environment(variables)?,
        "netd-cni",
        configuration(changes).to_string().as_bytes(),
    )
}

#[track_caller]
fn add(variables: &[(&str, &str)], changes: Value) -> CniInterface {
    match read(variables, changes).unwrap().request {
        ContainerRequest::Add(interface) => *interface,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(variables: &[(&str, &str)], changes: Value) -> (Code, String) {
    let error = read(variables, changes)
        .map(|asked| asked.request)
        .unwrap_err();
    assert!(!error.next.is_empty(), "{error}");
    (error.code, error.cause)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_missing_variable_is_named_and_so_are_all_that_are_missing() {
    for (command, missing) in [
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME"),
    ] {
        let empty = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", ""),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", ""),
        ];
        let error = environment(&empty).unwrap_err();
        assert_eq!(
            (error.code, error.cause),
            (
                Code::Environment,
                format!("required env variables [{missing}] missing")
            )
        );
    }
    for command in ["STATUS", "GC", "VERSION"] {
        Environment::read(|name| (name == "CNI_COMMAND").then(|| command.to_owned())).unwrap();
    }
}

#[test]
fn variables_that_make_no_sense_are_named() {
    let (long_name, long_id) = ("e".repeat(16), "c".repeat(201));
    for (name, value) in [
        ("CNI_COMMAND", "add"),
        ("CNI_CONTAINERID", "-c1"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_CONTAINERID", long_id.as_str()),
        ("CNI_IFNAME", long_name.as_str()),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_NETNS", "blue"),
        ("CNI_ARGS", "IP"),
        ("CNI_ARGS", "=5"),
    ] {
        let error = environment(&[(name, value)]).unwrap_err();
        assert!(
            error.code == Code::Environment && error.cause.contains(name),
            "{name}={value}: {error}"
        );
    }
    for id in ["c", "C1_.-", &"c".repeat(200)] {
        environment(&[
            ("CNI_CONTAINERID", id),
            ("CNI_IFNAME", "fifteen-letters"),
            ("CNI_ARGS", "A=;B=x=y;;"),
        ])
        .unwrap();
    }
}

#[test]
fn malformed_configurations_are_refused_with_their_code() {
    let environment = environment(&[]).unwrap();
    for (input, code) in [
        ("", Code::Decoding),
        ("{", Code::Decoding),
        ("[]", Code::Decoding),
        (r#"{"cniVersion":7,"name":"n"}"#, Code::Decoding),
        (
            r#"{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"ips":"x"}}"#,
            Code::Decoding,
        ),
        (r#"{"cniVersion":"1.0.0"}"#, Code::Configuration),
        (r#"{"cniVersion":"1.0.0","name":""}"#, Code::Configuration),
        (
            r#"{"cniVersion":"1.0.0","name":"a/b"}"#,
            Code::Configuration,
        ),
        (r#"{"name":"n"}"#, Code::Version),
        (r#"{"cniVersion":"0.2.0","name":"n"}"#, Code::Version),
        (r#"{"cniVersion":"1.2.0","name":"n"}"#, Code::Version),
        (
            r#"{"cniVersion":"1.0.0","name":"n","interface":"a/b"}"#,
            Code::Configuration,
        ),
    ] {
        assert_eq!(
            config::read(&environment, "netd-cni", input.as_bytes())
                .unwrap_err()
                .code,
            code,
            "{input}"
        );
    }
}

#[test]
fn operations_that_a_version_does_not_know_are_refused() {
    let of = |command: &str, version: &str| {
        let changes = json!({ "cniVersion": version, "prevResult": previous() });
        read(&[("CNI_COMMAND", command)], changes).map(|asked| asked.version)
    };
    assert_eq!(of("ADD", "0.3.1"), Ok(Version::V031));
    assert_eq!(of("DEL", "0.3.1"), Ok(Version::V031));
    assert_eq!(of("CHECK", "0.4.0"), Ok(Version::V040));
    assert_eq!(of("STATUS", "1.1.0"), Ok(Version::V110));
    assert_eq!(of("GC", "1.1.0"), Ok(Version::V110));
    for (command, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")] {
        assert_eq!(
            of(command, version).unwrap_err().code,
            Code::Version,
            "{command} {version}"
        );
    }
}

#[test]
fn an_interface_is_asked_for_with_all_that_runtimes_say_of_it() {
    let changes = json!({
        "runtimeConfig": {
            "ips": ["fd00:9::5/64"],
            "mac": "02:00:00:00:00:05",
            "portMappings": [
                { "hostPort": 8080, "containerPort": 80, "protocol": "TCP",
                    "hostIP": "192.168.1.1" },
                { "hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "0.0.0.0" },
            ],
            "bandwidth": { "ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000,
                "egressBurst": 4000 },
            "aliases": ["db", "pg"],
            "cgroupPath": "/x",
        },
        "args": { "cni": { "labels": [{ "key": "netd.service", "value": "web" },
            { "key": "app", "value": "x" }] } },
    });
    let arguments = "IgnoreUnknown=1;IP=10.0.9.5/24;MAC=02:00:00:00:00:99;\
                     K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=prod";
    let asked = add(&[("CNI_ARGS", arguments)], changes);
    assert_eq!(
        asked.name,
        CniName {
            container: "c1".into(),
            interface: "eth0".into(),
            own: None
        }
    );
    assert_eq!(
        (
            asked.network.as_str(),
            asked.sandbox.as_str(),
            asked.only_addresses
        ),
        ("my-net", NAMESPACE, false)
    );
    assert_eq!(
        asked.addresses,
        [ip("10.0.9.5"), ip("fd00:9::5")],
        "nerdctl gives one family here and one there"
    );
    assert_eq!(
        asked.mac,
        Some("02:00:00:00:00:05".parse().unwrap()),
        "the capability goes before CNI_ARGS"
    );
    let published: Vec<String> = asked
        .traits
        .publish
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        published,
        [
            "192.168.1.1:8080->80/tcp (host)",
            "0.0.0.0:53->53/udp (host)"
        ]
    );
    let any = PublishAt::Address(Ipv4Addr::UNSPECIFIED.into());
    assert_eq!(asked.traits.publish[1].at, any);
    let limits = Bandwidth {
        ingress_rate: 1000,
        ingress_burst: 2000,
        egress_rate: 3000,
        egress_burst: 4000,
    };
    let expected = ContainerTraits {
        container: "c1".into(),
        name: "web-0-prod".into(),
        aliases: ["db", "pg"].map(str::to_owned).into(),
        service: Some("web".into()),
        bandwidth: limits,
        configuration: "dbnet".into(),
        publish: asked.traits.publish.clone(),
        ..ContainerTraits::default()
    };
    assert_eq!(asked.traits, expected);
}

#[test]
fn unset_fields_are_left_to_the_cluster() {
    for changes in [
        json!({}),
        json!({ "runtimeConfig": null, "args": null, "prevResult": null, "ipam": {} }),
    ] {
        let asked = add(&[], changes);
        assert!(asked.addresses.is_empty() && asked.mac.is_none() && asked.traits.name.is_empty());
    }
    // What runtimes keep there for themselves, or for versions to come.
    let more = json!({ "capabilities": { "ips": true }, "cni.dev/x": [1], "cniVersions": ["1.1.0"],
        "disableGC": true, "new": 7 });
    assert_eq!(add(&[], more), add(&[], json!({})));
    let nulls = json!({ "runtimeConfig": { "ips": null, "portMappings": null, "aliases": null,
        "mac": "" } });
    assert!(add(&[], nulls).traits.aliases.is_empty());
    let unnamed = json!({ "network": null });
    assert_eq!(
        add(&[], unnamed).network,
        "dbnet",
        "the configuration's name is the network's where it names none"
    );
}

#[test]
fn podman_gives_aliases_by_network() {
    let changes = json!({ "runtimeConfig": { "aliases": { "dbnet": ["db"], "other": ["x"] } } });
    let asked = add(
        &[("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=happy_name")],
        changes,
    );
    assert_eq!(
        (asked.traits.aliases, asked.traits.name),
        (["db".to_owned()].into(), "happy_name".to_owned())
    );
}

#[test]
fn go_cni_writes_keys_with_capitals_and_null_for_nothing() {
    let changes = json!({ "runtimeConfig": {
        "portMappings": [{ "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp",
            "HostIP": "" }],
        "bandwidth": { "IngressRate": 1000, "IngressBurst": 4_294_967_295_u32, "EgressRate": 0,
            "EgressBurst": 0 },
        "dns": { "Servers": ["10.0.0.10"], "Searches": null, "Options": ["ndots:5"] },
    } });
    let read = read(&[], changes).unwrap();
    assert_eq!(
        (read.dns.nameservers, read.dns.search, read.dns.options),
        (vec![ip("10.0.0.10")], vec![], vec!["ndots:5".into()])
    );
    let ContainerRequest::Add(asked) = read.request else {
        panic!("ADD")
    };
    assert_eq!(asked.traits.publish[0].to_string(), "*:8080->80/tcp (host)");
    let limits = Bandwidth {
        ingress_rate: 1000,
        ingress_burst: u32::MAX.into(),
        ..Bandwidth::default()
    };
    assert_eq!(asked.traits.bandwidth, limits);
}

#[test]
fn args_go_before_the_deprecated_variable() {
    let changes = json!({ "args": { "cni": { "ips": ["10.0.9.7/24"] } } });
    assert_eq!(
        add(&[("CNI_ARGS", "IP=10.0.9.5")], changes).addresses,
        [ip("10.0.9.7")]
    );
}

#[test]
fn values_of_capabilities_that_make_no_sense_are_refused() {
    let mapping = |host: i64, container: i64, protocol: &str| {
        json!({ "portMappings": [{ "hostPort": host, "containerPort": container,
        "protocol": protocol }] })
    };
    for capabilities in [
        json!({ "ips": ["x"] }),
        json!({ "ips": ["10.0.9.5", "10.0.9.6"] }),
        json!({ "mac": "x" }),
        json!({ "mac": "01:00:5e:00:00:01" }),
        json!({ "mac": "00:00:00:00:00:00" }),
        mapping(0, 80, "tcp"),
        mapping(80, 0, "tcp"),
        mapping(65536, 80, "tcp"),
        mapping(80, -1, "tcp"),
        mapping(80, 80, "icmp"),
        json!({ "bandwidth": { "ingressRate": 5 } }),
        json!({ "bandwidth": { "egressBurst": 5 } }),
    ] {
        let (code, cause) = refused(&[], json!({ "runtimeConfig": capabilities }));
        assert_eq!(code, Code::Configuration, "{cause}");
    }
    for labels in [
        json!([{ "key": "netd.port", "value": "x" }]),
        json!([{ "key": "netd.service", "value": 5 }]),
        json!({ "netd.service": "web" }),
    ] {
        let changes = json!({ "args": { "cni": { "labels": labels } } });
        assert_eq!(refused(&[], changes).0, Code::Configuration);
    }
}

#[test]
fn unsupported_fields_are_refused_with_key_and_value() {
    for (changes, words) in [
        (
            json!({ "runtimeConfig": { "ipRanges": [[{ "subnet": "10.1.0.0/16" }]] } }),
            ["ipRanges", "10.1.0.0/16"],
        ),
        (
            json!({ "runtimeConfig": { "deviceID": "0000:04:00.5" } }),
            ["deviceID", "0000:04:00.5"],
        ),
        (
            json!({ "ipam": { "type": "host-local" } }),
            ["ipam.type", "host-local"],
        ),
    ] {
        let (code, cause) = refused(&[], changes);
        assert!(
            code == Code::Unsupported && words.iter().all(|word| cause.contains(word)),
            "{cause}"
        );
    }
}

#[test]
fn under_another_plugin_only_addresses_are_asked_for() {
    let changes = json!({ "type": "bridge", "network": "x",
        "ipam": { "type": "netd-cni", "network": "lan" } });
    let asked = add(&[], changes);
    assert!(asked.only_addresses && asked.network == "lan");
    let own = json!({ "ipam": { "type": "netd-cni" } });
    assert!(!add(&[], own).only_addresses);
    let renamed =
        configuration(json!({ "type": "bridge", "ipam": { "type": "mine" } })).to_string();
    let asked = config::read(&environment(&[]).unwrap(), "mine", renamed.as_bytes())
        .unwrap()
        .request;
    assert!(matches!(asked, ContainerRequest::Add(asked) if asked.only_addresses));
}

#[test]
fn del_needs_nothing_that_may_be_missing_or_wrong() {
    let changes = json!({ "runtimeConfig": { "ips": 7 }, "prevResult": "x", "ipam": 5, "args": [],
        "network": null });
    let asked = read(
        &[
            ("CNI_COMMAND", "DEL"),
            ("CNI_NETNS", ""),
            ("CNI_ARGS", "IP"),
        ],
        changes,
    )
    .unwrap();
    let ContainerRequest::Del { name, sandbox } = asked.request else {
        panic!("{asked:?}")
    };
    assert_eq!(
        (
            name.container.as_str(),
            name.interface.as_str(),
            name.own,
            sandbox
        ),
        ("c1", "eth0", None, None)
    );
    let own = read(&[("CNI_COMMAND", "DEL")], json!({ "interface": "net1" }))
        .unwrap()
        .request;
    let ContainerRequest::Del { name, sandbox } = own else {
        panic!("{own:?}")
    };
    assert_eq!(
        (name.own.as_deref(), sandbox.as_deref()),
        (Some("net1"), Some(NAMESPACE))
    );
}

#[test]
fn gc_says_who_lives() {
    let changes =
        json!({ "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "eth0" }] });
    for (changes, count) in [
        (changes, 1),
        (json!({ "cni.dev/valid-attachments": null }), 0),
        (json!({}), 0),
    ] {
        let asked = read(&[("CNI_COMMAND", "GC")], changes).unwrap().request;
        let ContainerRequest::Gc {
            configuration,
            valid,
        } = asked
        else {
            panic!("{asked:?}")
        };
        assert_eq!((configuration.as_str(), valid.len()), ("dbnet", count));
    }
}

fn previous() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "br0" },
            { "name": "eth0", "mac": "02:42:0a:00:09:05", "sandbox": NAMESPACE }],
        "ips": [
            { "address": "192.168.7.1/24", "interface": 0 },
            { "address": "10.0.9.5/24", "interface": 1 },
            { "address": "fd00:9::5/64", "interface": 1 },
        ],
    })
}

#[test]
fn check_looks_for_the_addresses_that_add_has_told() {
    let asked = read(
        &[("CNI_COMMAND", "CHECK")],
        json!({ "prevResult": previous() }),
    )
    .unwrap()
    .request;
    let ContainerRequest::Check(asked) = asked else {
        panic!("{asked:?}")
    };
    assert_eq!(asked.addresses, [ip("10.0.9.5"), ip("fd00:9::5")]);
    for changes in [
        json!({}),
        json!({ "prevResult": {} }),
        json!({ "prevResult": { "interfaces": [] } }),
    ] {
        assert_eq!(
            refused(&[("CNI_COMMAND", "CHECK")], changes).0,
            Code::Configuration
        );
    }
}

fn attached() -> Attached {
    let lease = |subnet: &str, gateway: &str| SubnetLease {
        subnet: subnet.parse().unwrap(),
        gateway: ip(gateway),
    };
    Attached {
        container: Container {
            id: EndpointId(1),
            key: ContainerKey {
                node: NodeId(1),
                runtime: ContainerRuntime::Cni,
                id: "c1/eth0".into(),
            },
            network: NetworkId(1),
            addresses: vec![ip("10.0.9.5"), ip("fd00:9::5")],
            mac: Mac([2, 0x42, 10, 0, 9, 5]),
            sandbox: None,
            traits: ContainerTraits::default(),
            created: 0,
        },
        subnets: vec![
            lease("10.0.9.0/24", "10.0.9.1"),
            lease("fd00:9::/64", "fd00:9::1"),
        ],
        internal: false,
        ways_out: vec![ip("10.0.9.1"), ip("fd00:9::1")],
        mtu: Some(1450),
        resolvers: vec![ip("10.0.9.1")],
    }
}

fn result_of(version: Version, changes: Value, attached: &Attached) -> Value {
    let asked = read(&[], changes).unwrap();
    let ContainerRequest::Add(interface) = asked.request else {
        panic!("ADD")
    };
    result::of(version, &interface, attached, asked.previous, &asked.dns)
}

#[test]
fn a_result_has_the_shape_of_the_version_that_is_asked_for() {
    for version in [Version::V031, Version::V040, Version::V100, Version::V110] {
        let mut expected = json!({
            "cniVersion": version.text(),
            "interfaces": [{ "name": "eth0", "mac": "02:42:0a:00:09:05", "sandbox": NAMESPACE }],
            "ips": [
                { "interface": 0, "address": "10.0.9.5/24", "gateway": "10.0.9.1" },
                { "interface": 0, "address": "fd00:9::5/64", "gateway": "fd00:9::1" },
            ],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.0.9.1" },
                { "dst": "::/0", "gw": "fd00:9::1" }],
            "dns": { "nameservers": ["10.0.9.1"] },
        });
        if version < Version::V100 {
            expected["ips"][0]["version"] = "4".into();
            expected["ips"][1]["version"] = "6".into();
        }
        if version == Version::V110 {
            expected["interfaces"][0]["mtu"] = 1450.into();
        }
        assert_eq!(result_of(version, json!({}), &attached()), expected);
    }
}

#[test]
fn an_address_manager_tells_no_interfaces() {
    let changes = json!({ "type": "bridge", "ipam": { "type": "netd-cni", "network": "lan" } });
    let expected = json!({
        "cniVersion": "1.0.0",
        "ips": [
            { "address": "10.0.9.5/24", "gateway": "10.0.9.1" },
            { "address": "fd00:9::5/64", "gateway": "fd00:9::1" },
        ],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "10.0.9.1" }, { "dst": "::/0", "gw": "fd00:9::1" }],
    });
    let attached = Attached {
        resolvers: Vec::new(),
        ..attached()
    };
    assert_eq!(result_of(Version::V100, changes, &attached), expected);
}

#[test]
fn a_network_without_a_way_out_has_neither_gateway_nor_route() {
    let attached = Attached {
        internal: true,
        ways_out: Vec::new(),
        ..attached()
    };
    let result = result_of(Version::V100, json!({}), &attached);
    assert!(
        result["ips"][0].get("gateway").is_none() && result["routes"] == json!([]),
        "{result}"
    );
}

#[test]
fn results_of_earlier_plugins_are_kept_and_extended() {
    let mut before = previous();
    before["dns"] =
        json!({ "nameservers": ["10.1.0.1", "10.0.9.1"], "domain": "x", "search": ["a"] });
    before["routes"] = json!([{ "dst": "10.8.0.0/16" }]);
    let changes = json!({ "interface": "net1", "prevResult": before, "dns": { "search": ["b"] } });
    let result = result_of(Version::V110, changes, &attached());
    let names: Vec<&Value> = result["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["br0", "eth0", "net1"]);
    assert_eq!(result["ips"].as_array().unwrap().len(), 5);
    assert_eq!(
        (&result["ips"][0], &result["ips"][3]["interface"]),
        (&before["ips"][0], &json!(2))
    );
    assert_eq!(result["routes"][0], before["routes"][0]);
    let dns =
        json!({ "nameservers": ["10.0.9.1", "10.1.0.1"], "domain": "x", "search": ["b", "a"] });
    assert_eq!(result["dns"], dns);
}

#[test]
fn names_from_the_runtime_override_the_configuration() {
    let changes = json!({
        "dns": { "nameservers": ["1.1.1.1"], "domain": "d", "search": ["a"],
            "options": ["ndots:1"] },
        "runtimeConfig": { "dns": { "servers": ["10.0.0.10"], "searches": ["svc.cluster.local"] } },
    });
    let asked = read(&[], changes).unwrap();
    let expected = Dns {
        nameservers: vec![ip("10.0.0.10")],
        domain: "d".into(),
        search: vec!["svc.cluster.local".into()],
        options: vec!["ndots:1".into()],
    };
    assert_eq!(asked.dns, expected);
}

#[test]
fn refusals_have_the_codes_that_runtimes_act_on() {
    let code = |kind| CniError::from(Refusal::new(kind, "x", "y")).code as u32;
    assert_eq!(code(Kind::Unavailable), 11);
    assert_eq!([Kind::Invalid, Kind::NotFound].map(code), [7, 7]);
    let own = [
        Kind::Conflict,
        Kind::Exhausted,
        Kind::Precondition,
        Kind::Denied,
    ]
    .map(code);
    assert_eq!(own, [100, 101, 102, 103]);
    let error = CniError::new(Code::Exhausted, "full", "wait");
    let json = json!({ "cniVersion": "1.0.0", "code": 101, "msg": "full", "details": "wait" });
    assert_eq!(error.json("1.0.0"), json);
    assert_eq!(error.of_status().code, Code::Unavailable);
    assert_eq!(
        CniError::new(Code::Version, "x", "y").of_status().code,
        Code::Version
    );
}

#[test]
fn the_host_is_meant_only_where_the_runtime_says_so() {
    assert!(!environment(&[]).unwrap().own_namespace);
    assert!(
        environment(&[("CNI_NETNS_OVERRIDE", "TRUE")])
            .unwrap()
            .own_namespace
    );
    assert_eq!(environment(&[]).unwrap().operation, Operation::Add);
}
