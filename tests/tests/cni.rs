//! The CNI plugin as runtimes call it, on hosts of a lab; what it says is compared with what `ip`
//! shows.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    Lab,
    cni::{Pod, REFERENCE, Runtime, addresses, ended, eth0, outcome},
    eventually, holds, run,
};

const CREATE: &str = "network create --attachable --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net";

fn lab(hosts: u32) -> Lab {
    let lab = Lab::up(hosts);
    lab.ctl("h1", CREATE).ok();
    lab
}

/// Who is on a network, by what it says of itself: addresses by name.
fn on(lab: &Lab, network: &str) -> BTreeSet<(String, String)> {
    let info = lab
        .json("h1", &format!("network inspect {network}"))
        .remove(0);
    let endpoints = info["status"]["endpoints"].as_array().unwrap().clone();
    let of = |endpoint: &Value| {
        let name = endpoint["name"].as_str().unwrap().to_owned();
        let all = endpoint["addresses"].as_array().unwrap().clone();
        all.into_iter()
            .map(move |address| (name.clone(), address.as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    endpoints.iter().flat_map(of).collect()
}

fn nobody_is_left(lab: &Lab) {
    // A daemon that has just been killed may have left it to its next liveness check.
    eventually("nobody is left", || {
        holds(on(lab, "my-net").is_empty(), on(lab, "my-net"))
    });
    lab.ctl("h1", "ipam check").ok();
}

/// What `ip` shows of an interface is what the result says, to the last address and route.
#[track_caller]
fn is_as_told(runtime: &Runtime<'_>, pod: Pod<'_>, result: &Value) {
    let link = runtime.seen(pod, pod.interface).expect("the interface");
    let told = &result["interfaces"][0];
    assert_eq!(
        (&told["name"], &told["sandbox"]),
        (&json!(pod.interface), &json!(pod.namespace()))
    );
    assert_eq!(
        (&told["mac"], &link["operstate"]),
        (&link["address"], &json!("UP"))
    );
    // Nobody waits for an answer to whether an address of the ledger is another's, which takes a
    // second.
    let dad = format!("/proc/sys/net/ipv6/conf/{}/accept_dad", pod.interface);
    let tentative = link["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|info| info["tentative"] == true)
        .count();
    assert_eq!(
        (runtime.inside(pod, &["cat", &dad]).ok().trim(), tentative),
        ("0", 0)
    );
    if runtime.version == "1.1.0" {
        assert_eq!(told["mtu"], link["mtu"]);
    }
    let global = link["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|info| info["scope"] == "global");
    let seen: BTreeSet<String> = global
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .collect();
    let ips = result["ips"].as_array().unwrap();
    assert_eq!(
        ips.iter()
            .map(|ip| ip["address"].as_str().unwrap().to_owned())
            .collect::<BTreeSet<_>>(),
        seen
    );
    for (family, nothing) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        let text = runtime
            .lab
            .exec(
                runtime.host,
                &["ip", "-j", "-n", pod.id, family, "route", "show", "default"],
            )
            .ok();
        let seen: Vec<Value> = serde_json::from_str(&text).unwrap();
        let seen = seen
            .iter()
            .map(|route| json!({ "dst": nothing, "gw": route["gateway"] }));
        let told = result["routes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|route| route["dst"] == nothing)
            .cloned();
        assert_eq!(
            seen.collect::<Vec<_>>(),
            told.collect::<Vec<_>>(),
            "{family}"
        );
    }
}

#[test]
fn an_interface_matches_its_result_in_every_version() {
    let lab = lab(1);
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let (runtime, pod) = (
            Runtime {
                version,
                ..Runtime::new(&lab, "h1", "my-net")
            },
            eth0("c1"),
        );
        let result = runtime.add(pod);
        assert_eq!(result["cniVersion"], version);
        is_as_told(&runtime, pod, &result);
        assert_eq!(
            runtime.try_add(pod).unwrap(),
            result,
            "asked again it is the same"
        );
        if version != "0.3.1" {
            runtime.check(pod, &result).unwrap();
        }
        runtime.del(pod, Some(&result));
        assert_eq!(runtime.seen(pod, "eth0"), None);
        nobody_is_left(&lab);
        // Again, and after the namespace is gone.
        runtime.del(pod, None);
        run(&mut lab.command("h1", &["ip", "netns", "del", "c1"])).ok();
        runtime.del(pod, None);
    }
    let runtime = Runtime::new(&lab, "h1", "my-net");
    runtime.status().unwrap();
    // As nerdctl does: DEL without a namespace, before ADD; and Nomad: ADD again and again.
    let pod = eth0("c2");
    let said = runtime.call("DEL", pod, "", &runtime.plugins[0], None);
    assert_eq!((said.code, said.out.as_str()), (0, ""));
    let result = runtime.add(pod);
    assert!((0..3).all(|_| runtime.try_add(pod).unwrap() == result));
    // What others break is repaired, and CHECK waits for it.
    runtime
        .lab
        .exec("h1", &["ip", "-n", "c2", "link", "del", "eth0"])
        .ok();
    runtime.check(pod, &result).unwrap();
    is_as_told(&runtime, pod, &result);
    for route in [
        ["del", "default"].as_slice(),
        &["add", "198.51.100.0/24", "dev", "eth0"],
    ] {
        runtime
            .lab
            .exec("h1", &[&["ip", "-n", "c2", "route"], route].concat())
            .ok();
    }
    runtime.check(pod, &result).unwrap();
    eventually(
        "the way out is back, and another plugin's route has stayed",
        || {
            let routes = runtime.inside(pod, &["ip", "route"]).ok();
            holds(
                routes.contains("default via 10.0.9.1") && routes.contains("198.51.100.0/24"),
                routes,
            )
        },
    );
    runtime.check(pod, &result).unwrap();
    let mut wrong = result.clone();
    wrong["ips"][0]["address"] = "10.0.9.77/24".into();
    let error = runtime.check(pod, &wrong).unwrap_err();
    assert!(
        error["msg"].as_str().unwrap().contains("10.0.9.77"),
        "{error}"
    );
}

#[test]
fn requests_of_runtimes_are_granted_and_found_by_name() {
    let lab = lab(2);
    lab.ctl(
        "h1",
        "service create --external --name web --network my-net",
    )
    .ok();
    let capabilities = json!({
        "ips": ["fd00:9::77/64"], "mac": "02:00:00:00:00:77", "aliases": ["db"],
        "dns": { "servers": ["192.0.2.53"], "searches": ["example.org"] },
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        "bandwidth": { "ingressRate": 1_000_000, "ingressBurst": 1_000_000,
            "egressRate": 2_000_000, "egressBurst": 1_000_000 },
    });
    let first = Runtime {
        arguments: "IgnoreUnknown=1;IP=10.0.9.77;K8S_POD_NAME=web-0",
        ..Runtime::new(&lab, "h1", "my-net")
    };
    let mut first = first.with(capabilities);
    first.plugins[0]["args"] =
        json!({ "cni": { "labels": [{ "key": "netd.service", "value": "web" }] } });
    let result = first.add(eth0("c1"));
    is_as_told(&first, eth0("c1"), &result);
    assert_eq!(addresses(&result), ["10.0.9.77", "fd00:9::77"]);
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:77");
    assert_eq!(result["dns"]["search"], json!(["example.org"]));
    assert_eq!(
        result["dns"]["nameservers"],
        json!(["10.0.9.1", "fd00:9::1", "192.0.2.53"])
    );

    let second = Runtime {
        arguments: "K8S_POD_NAME=shell;K8S_POD_NAMESPACE=prod",
        ..Runtime::new(&lab, "h2", "my-net")
    };
    second.add(eth0("c2"));
    let third = eth0("c3");
    second.make(third);
    for (asked, arguments) in [
        (json!({ "mac": "02:00:00:00:00:77" }), ""),
        (json!({}), "MAC=02:00:00:00:00:77"),
    ] {
        let clash = Runtime {
            arguments,
            ..Runtime::new(&lab, "h2", "my-net").with(asked)
        };
        let error = clash.try_add(third).unwrap_err();
        assert!(
            error["msg"]
                .as_str()
                .unwrap()
                .contains("is that of cni container \"web-0\" on h1"),
            "{error}"
        );
        assert_eq!(
            (&error["code"], clash.seen(third, "eth0")),
            (&json!(100), None)
        );
    }
    let mut server = lab
        .command(
            "h1",
            &[
                "ip", "netns", "exec", "c1", "netd", "whoami", "--port", "80",
            ],
        )
        .spawn()
        .unwrap();
    let ask = |name: &str, kind: &str| {
        let words = [
            "dig",
            "+short",
            "+tries=1",
            "+time=2",
            "@10.0.9.1",
            name,
            kind,
        ];
        eventually(name, || {
            let said = second.inside(eth0("c2"), &words);
            let lines: BTreeSet<String> = said.out.lines().map(str::to_owned).collect();
            holds(said.code == 0 && !lines.is_empty(), &said).map(|()| lines)
        })
    };
    for name in ["web-0", "db", "c1", "tasks.web"] {
        assert_eq!(
            (ask(name, "A"), ask(name, "AAAA")),
            (["10.0.9.77".into()].into(), ["fd00:9::77".into()].into())
        );
    }
    assert_eq!(ask("shell-prod", "A").len(), 1);
    let vip = ask("web", "A").into_iter().next().unwrap();
    let client = second.seen(eth0("c2"), "eth0").unwrap()["addr_info"][0]["local"]
        .as_str()
        .unwrap()
        .to_owned();
    for url in [
        format!("http://{vip}/"),
        "http://10.0.9.77/".to_owned(),
        "http://[fd00:9::77]/".to_owned(),
    ] {
        eventually("the container is reached from another host", || {
            let said = second.inside(eth0("c2"), &["curl", "-sS", "-m", "3", &url]);
            holds(
                said.code == 0
                    && (url.contains('[') || said.out.contains(&format!("client: {client}"))),
                (&url, said),
            )
        });
    }
    let address = lab
        .json("h1", "node ls")
        .into_iter()
        .find(|node| node["hostname"] == "h1")
        .unwrap();
    let address = address["vtep"].as_str().unwrap().to_owned();
    eventually("the host's port leads to it", || {
        let said = lab.exec(
            "h2",
            &["curl", "-sS", "-m", "3", &format!("http://{address}:8080/")],
        );
        holds(said.code == 0, said)
    });
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn namespaces_older_than_netd_stay_and_can_be_removed() {
    let lab = lab(2);
    // As containerd's CRI makes them; systemd's /run is shared.
    let make = "mkdir -p /run/netns; touch /run/netns/pod; unshare -n mount --bind \
                /proc/self/ns/net /run/netns/pod";
    for (host, sharing) in [("h1", "private"), ("h2", "shared")] {
        lab.exec(
            host,
            &["sh", "-ec", &format!("mount --make-{sharing} /run; {make}")],
        )
        .ok();
        let (runtime, pod) = (Runtime::new(&lab, host, "my-net"), eth0("pod"));
        let result = runtime.try_add(pod).unwrap();
        is_as_told(&runtime, pod, &result);
        runtime.check(pod, &result).unwrap();
        runtime.del(pod, Some(&result));
        lab.exec(
            host,
            &["sh", "-ec", "umount -l /run/netns/pod; rm /run/netns/pod"],
        )
        .ok();
        assert_eq!(
            lab.exec(host, &["grep", "-c", "netns/pod", "/proc/self/mountinfo"])
                .out
                .trim(),
            "0",
            "{sharing}"
        );
    }
    nobody_is_left(&lab);
}

/// A busy machine makes a transfer slower, never faster.
#[test]
fn no_more_passes_than_the_limit_of_the_bandwidth_allows() {
    let lab = lab(2);
    let (burst, to, from) = (1_000_000, 40_000_000, 80_000_000);
    let limits = json!({ "ingressRate": to, "ingressBurst": burst, "egressRate": from,
        "egressBurst": burst });
    let limited = Runtime::new(&lab, "h1", "my-net").with(json!({ "bandwidth": limits }));
    let free = Runtime::new(&lab, "h2", "my-net");
    let addresses = [(&limited, "c1"), (&free, "c2")].map(|(runtime, id)| {
        let result = runtime.add(eth0(id));
        let serve = "mkdir /run/www; head -c 5000000 /dev/zero >/run/www/file; exec busybox httpd \
                     -p 80 -h /run/www";
        runtime.inside(eth0(id), &["sh", "-ec", serve]).ok();
        addresses(&result).remove(0)
    });
    let seconds = |runtime: &Runtime<'_>, id: &str, whom: &str| {
        let url = format!("http://{whom}/file");
        let words = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{size_download} %{time_total}",
            &url,
        ];
        let said = runtime.inside(eth0(id), &words).ok();
        let (size, time) = said.split_once(' ').unwrap();
        assert_eq!(size, "5000000");
        time.parse::<f64>().unwrap()
    };
    let least = |rate: i32| f64::from(40_000_000 - burst) / f64::from(rate);
    let downward = seconds(&limited, "c1", &addresses[1]);
    assert!(downward >= least(to), "{downward} s");
    let upward = seconds(&free, "c2", &addresses[0]);
    assert!(upward >= least(from), "{upward} s");
}

#[test]
fn a_container_on_two_networks_leaves_by_the_one_that_leads_out() {
    let lab = lab(1);
    lab.ctl(
        "h1",
        "network create --attachable --internal --subnet 10.0.8.0/24 --subnet fd00:8::/64 inner",
    )
    .ok();
    let (outer, inner) = (
        Runtime::new(&lab, "h1", "my-net"),
        Runtime::new(&lab, "h1", "inner"),
    );
    for (name, network) in [("web", "my-net"), ("db", "inner")] {
        lab.ctl(
            "h1",
            &format!("service create --name {name} --network {network} -- netd whoami --port 80"),
        )
        .ok();
    }
    let net1 = |id| Pod {
        id,
        interface: "net1",
    };
    for (id, orders) in [
        ("c1", [(&inner, eth0("c1")), (&outer, net1("c1"))]),
        ("c2", [(&outer, eth0("c2")), (&inner, net1("c2"))]),
        ("c3", [(&outer, net1("c3")), (&inner, eth0("c3"))]),
        ("c4", [(&inner, net1("c4")), (&outer, eth0("c4"))]),
    ] {
        outer.make(eth0(id));
        let results = orders.map(|(runtime, pod)| (runtime, pod, runtime.try_add(pod).unwrap()));
        for (runtime, pod, result) in &results {
            let leads_out = runtime.plugins[0]["network"] == "my-net";
            let told: Vec<&Value> = result["routes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|route| &route["dst"])
                .collect();
            assert_eq!(
                told,
                if leads_out {
                    vec!["0.0.0.0/0", "::/0"]
                } else {
                    vec![]
                },
                "{id}: {result}"
            );
            if leads_out {
                is_as_told(runtime, *pod, result);
            }
            // Each of their resolvers knows the names of both.
            let resolver = format!("@{}", result["dns"]["nameservers"][0].as_str().unwrap());
            for (name, vip) in [("web", "10.0.9."), ("db", "10.0.8.")] {
                let said = runtime
                    .inside(
                        *pod,
                        &["dig", "+short", "+tries=1", "+time=3", &resolver, name],
                    )
                    .ok();
                assert!(
                    said.starts_with(vip),
                    "{id} asks {resolver} for {name}: {said:?}"
                );
                let page = runtime
                    .inside(
                        *pod,
                        &[
                            "curl",
                            "-sS",
                            "-m",
                            "5",
                            &format!("http://{}/", said.trim()),
                        ],
                    )
                    .ok();
                assert!(page.starts_with(&format!("task: {name}.1")), "{id}: {page}");
            }
        }
    }
}

#[test]
fn a_failed_add_leaves_nothing_and_says_why() {
    let lab = lab(1);
    lab.ctl(
        "h1",
        "network create --attachable --subnet 10.0.8.0/29 small",
    )
    .ok();
    lab.ctl("h1", "network create --subnet 10.0.7.0/24 closed")
        .ok();
    let runtime = Runtime::new(&lab, "h1", "my-net");
    let code = |runtime: &Runtime<'_>, pod: Pod<'_>| {
        runtime.try_add(pod).unwrap_err()["code"].as_u64().unwrap()
    };
    let pod = eth0("c1");
    runtime.make(pod);
    lab.exec(
        "h1",
        &[
            "ip", "-n", "c1", "link", "add", "eth0", "type", "veth", "peer", "name", "other",
        ],
    )
    .ok();
    assert_eq!(code(&runtime, pod), 100, "the name is another's");
    assert_eq!(code(&runtime, eth0("nowhere")), 8, "there is no namespace");
    assert_eq!(
        code(
            &Runtime::new(&lab, "h1", "nothing"),
            Pod {
                id: "c1",
                interface: "net1"
            }
        ),
        7,
        "no network"
    );
    assert_eq!(
        code(
            &Runtime::new(&lab, "h1", "closed"),
            Pod {
                id: "c1",
                interface: "net1"
            }
        ),
        102,
        "not attachable"
    );
    let taken = Runtime::new(&lab, "h1", "my-net").with(json!({ "ips": ["10.0.9.1"] }));
    assert!(
        taken
            .try_add(Pod {
                id: "c1",
                interface: "net1"
            })
            .is_err(),
        "the gateway's address"
    );
    let own = runtime.call("ADD", pod, "/proc/self/ns/net", &runtime.plugins[0], None);
    assert_eq!(
        outcome(own).unwrap_err()["code"],
        8,
        "the host's own namespace"
    );
    nobody_is_left(&lab);
    // The pool of /29 has five addresses beside the gateway's.
    let small = Runtime::new(&lab, "h1", "small");
    let pods: Vec<String> = (1..=5).map(|number| format!("s{number}")).collect();
    let results: Vec<Value> = pods.iter().map(|id| small.add(eth0(id))).collect();
    assert_eq!(
        results
            .iter()
            .flat_map(addresses)
            .collect::<BTreeSet<_>>()
            .len(),
        5
    );
    assert_eq!(small.status().unwrap_err()["code"], 50);
    let late = eth0("s6");
    small.make(late);
    assert_eq!(code(&small, late), 101);
    assert_eq!(small.seen(late, "eth0"), None);
    // What GC is told to be alive stays; what another configuration has made is none of its
    // business.
    let other = Runtime {
        name: "other",
        ..Runtime::new(&lab, "h1", "my-net")
    };
    other.add(eth0("o1"));
    small.gc(&[eth0("s1")]);
    assert_eq!((on(&lab, "small").len(), on(&lab, "my-net").len()), (1, 2));
    small.status().unwrap();
    small.try_add(late).unwrap();
    lab.ctl("h1", "ipam check").ok();
}

#[test]
fn parallel_adds_succeed_though_daemons_are_killed() {
    let lab = lab(3);
    lab.ctl(
        "h1",
        "network create --attachable --subnet 10.0.8.0/24 --subnet fd00:8::/64 second",
    )
    .ok();
    let (runtime, second) = (
        Runtime::new(&lab, "h1", "my-net"),
        Runtime::new(&lab, "h1", "second"),
    );
    let ids: Vec<String> = (1..=8).map(|number| format!("c{number}")).collect();
    ids.iter().for_each(|id| runtime.make(eth0(id)));
    // One container on two networks at once, as containerd does, and eight containers.
    let start = |id: &String| {
        let pod = Pod {
            id,
            interface: "net1",
        };
        let one = runtime.start("ADD", eth0(id), &pod.namespace(), &runtime.plugins[0], None);
        (
            one,
            second.start("ADD", pod, &pod.namespace(), &second.plugins[0], None),
        )
    };
    let children: Vec<_> = ids.iter().map(start).collect();
    run(lab.verb("crash").arg("h1")).ok();
    let results = children
        .into_iter()
        .flat_map(|(one, two)| [ended(one), ended(two)]);
    let results: Vec<Value> = results.map(|said| outcome(said).unwrap()).collect();
    assert_eq!(
        results
            .iter()
            .flat_map(addresses)
            .collect::<BTreeSet<_>>()
            .len(),
        32
    );
    for (id, result) in ids.iter().zip(results.iter().step_by(2)) {
        assert_eq!(runtime.try_add(eth0(id)).unwrap()["ips"], result["ips"]);
        assert!(
            runtime.seen(eth0(id), "eth0").is_some() && runtime.seen(eth0(id), "net1").is_some()
        );
        runtime.check(eth0(id), result).unwrap();
    }
    let children: Vec<_> = ids
        .iter()
        .map(|id| {
            runtime.start(
                "DEL",
                eth0(id),
                &eth0(id).namespace(),
                &runtime.plugins[0],
                None,
            )
        })
        .collect();
    run(lab.verb("crash").arg("h1")).ok();
    children
        .into_iter()
        .for_each(|child| drop(ended(child).ok()));
    // One that the daemon could not do when it was killed is done again, as runtimes may.
    ids.iter().for_each(|id| runtime.del(eth0(id), None));
    nobody_is_left(&lab);
    assert_eq!(on(&lab, "second").len(), 16);
}

#[test]
fn forgotten_containers_are_given_up_and_living_ones_stay() {
    let lab = lab(3);
    let (here, there) = (
        Runtime::new(&lab, "h3", "my-net"),
        Runtime::new(&lab, "h2", "my-net"),
    );
    let kept = there.add(eth0("kept"));
    here.add(eth0("gone"));
    let stays = here.add(eth0("stays"));
    let held = Runtime {
        version: "1.0.0",
        plugins: vec![json!({ "type": "bridge", "bridge": "br-own",
                "ipam": { "type": "netd-cni", "network": "my-net" } })],
        ..Runtime::new(&lab, "h3", "my-net")
    };
    held.add(eth0("held"));
    assert_eq!(on(&lab, "my-net").len(), 8);
    for id in ["gone", "held"] {
        lab.exec("h3", &["ip", "netns", "del", id]).ok();
    }
    let expect = |what: &str, results: &[&Value]| {
        let expected: BTreeSet<String> = results
            .iter()
            .flat_map(|result| addresses(result))
            .collect();
        eventually(what, || {
            let seen: BTreeSet<String> = on(&lab, "my-net")
                .into_iter()
                .map(|(_, address)| address)
                .collect();
            holds(seen == expected, &seen)
        });
    };
    expect("whose namespace is gone is given up", &[&kept, &stays]);
    here.check(eth0("stays"), &stays).unwrap();
    // Without a leader nothing can be given up, but DEL does not fail, and it is made good later.
    here.add(eth0("late"));
    for host in ["h1", "h2"] {
        run(lab.verb("kill").arg(host)).ok();
    }
    here.del(eth0("late"), None);
    here.make(eth0("new"));
    assert_eq!(here.try_add(eth0("new")).unwrap_err()["code"], 11);
    for host in ["h1", "h2"] {
        run(lab.verb("start").arg(host)).ok();
    }
    // The power cut has ended the container on h2: its namespace is of another boot, and was never
    // given up.
    expect(
        "what DEL has not been able to do is done, and a power cut needs no DEL",
        &[&stays],
    );
    there.del(eth0("kept"), None);
    here.try_add(eth0("new")).unwrap();
    lab.ctl("h1", "ipam check").ok();
}

#[test]
fn plugins_before_and_after_ours_in_a_list_work_as_ever() {
    let lab = lab(1);
    let mut runtime = Runtime::new(&lab, "h1", "my-net");
    runtime.version = "1.0.0";
    runtime.plugins = vec![
        json!({ "type": "netd-cni", "network": "my-net" }),
        json!({ "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1" } }),
        json!({
            "type": "portmap", "snat": true,
            "runtimeConfig": { "portMappings": [{ "hostPort": 8081, "containerPort": 80,
                "protocol": "tcp" }] },
        }),
    ];
    let pod = eth0("c1");
    let result = runtime.add(pod);
    is_as_told(&runtime, pod, &result);
    // Debian's `portmap` 1.1 looks for an IPv4 rule among those of IPv6: CHECK of it fails on every
    // dual-stack network.
    let portmap = runtime.plugins.pop();
    runtime.check(pod, &result).unwrap();
    runtime.plugins.extend(portmap);
    let sysctl = runtime
        .inside(pod, &["cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter"])
        .ok();
    assert_eq!(sysctl.trim(), "1");
    runtime.del(pod, Some(&result));
    nobody_is_left(&lab);

    let bridge = json!({
        "type": "bridge", "bridge": "br-own", "isGateway": true,
        "ipam": { "type": "host-local", "subnet": "192.168.77.0/24", "dataDir": "/run/host-local",
            "routes": [{ "dst": "0.0.0.0/0" }] },
    });
    runtime.plugins = vec![bridge, json!({ "type": "netd-cni", "network": "my-net" })];
    let pod = eth0("c2");
    runtime.make(pod);
    let error = runtime.try_add(pod).unwrap_err();
    assert!(
        error["code"] == 100 && error["details"].as_str().unwrap().contains("`interface`"),
        "{error}"
    );
    runtime.del(pod, None);
    runtime.plugins[1]["interface"] = "net1".into();
    let result = runtime.try_add(pod).unwrap();
    let names: Vec<&Value> = result["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|link| &link["name"])
        .collect();
    assert_eq!(
        (names.len(), names[0], names[3]),
        (4, &json!("br-own"), &json!("net1"))
    );
    // The reference plugin's CHECK looks for all addresses of the result on its own interface.
    let bridge = runtime.plugins.remove(0);
    runtime.check(pod, &result).unwrap();
    runtime.plugins.insert(0, bridge);
    let routes = runtime
        .inside(pod, &["ip", "route", "get", "198.51.100.1"])
        .ok();
    assert!(
        routes.contains("dev eth0"),
        "the first plugin's way out is taken: {routes}"
    );
    assert!(runtime.seen(pod, "net1").is_some());
    runtime.del(pod, Some(&result));
    assert_eq!(
        (runtime.seen(pod, "net1"), runtime.seen(pod, "eth0")),
        (None, None)
    );
    nobody_is_left(&lab);
}

#[test]
fn reference_plugins_take_addresses_from_the_ledger() {
    let lab = Lab::up(2);
    lab.ctl(
        "h1",
        "network create --attachable --driver macvlan --opt parent=eth0 --subnet 192.168.100.0/24 \
         --gateway 192.168.100.1 --ip-range 192.168.100.128/25 my-net",
    )
    .ok();
    let of = |host, plugin: &str, more: Value| {
        let mut plugin =
            json!({ "type": plugin, "ipam": { "type": "netd-cni", "network": "my-net" } });
        plugin
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Runtime {
            version: "1.0.0",
            plugins: vec![plugin],
            ..Runtime::new(&lab, host, "my-net")
        }
    };
    let runtimes = [
        of("h1", "macvlan", json!({ "master": "eth0" })),
        of("h2", "macvlan", json!({ "master": "eth0" })),
        of(
            "h1",
            "bridge",
            json!({ "bridge": "br-own", "isGateway": true }),
        ),
    ];
    let ids = ["m1", "m2", "b1"];
    let results: Vec<Value> = runtimes
        .iter()
        .zip(ids)
        .map(|(runtime, id)| runtime.add(eth0(id)))
        .collect();
    let given: BTreeSet<String> = results.iter().flat_map(addresses).collect();
    assert_eq!(given.len(), 3);
    assert_eq!(
        on(&lab, "my-net")
            .into_iter()
            .map(|(_, address)| address)
            .collect::<BTreeSet<_>>(),
        given
    );
    for ((runtime, id), result) in runtimes.iter().zip(ids).zip(&results) {
        let link = runtime.seen(eth0(id), "eth0").unwrap();
        assert_eq!(link["addr_info"][0]["local"], addresses(result)[0]);
        assert_eq!(
            (
                &link["addr_info"][0]["prefixlen"],
                &result["routes"][0]["dst"]
            ),
            (&json!(24), &json!("0.0.0.0/0"))
        );
        runtime.check(eth0(id), result).unwrap();
    }
    // A container of ours on the same LAN has another address, and both reach each other.
    let ours = Runtime::new(&lab, "h2", "my-net");
    let own = ours.add(eth0("own"));
    assert!(!given.contains(&addresses(&own)[0]));
    let mut server = lab
        .command(
            "h1",
            &[
                "ip", "netns", "exec", "m1", "netd", "whoami", "--port", "80",
            ],
        )
        .spawn()
        .unwrap();
    eventually("one of the reference plugin's is reached", || {
        let said = ours.inside(
            eth0("own"),
            &[
                "curl",
                "-sS",
                "-m",
                "3",
                &format!("http://{}/", addresses(&results[0])[0]),
            ],
        );
        holds(said.code == 0, said)
    });
    server.kill().unwrap();
    server.wait().unwrap();
    // What is held no more is no longer right, though the interface is as it was.
    ours.del(eth0("own"), None);
    ours.gc(&[]);
    assert!(runtimes[1].seen(eth0("m2"), "eth0").is_some());
    let error = runtimes[1].check(eth0("m2"), &results[1]).unwrap_err();
    assert!(
        error["msg"]
            .as_str()
            .unwrap()
            .contains("its addresses are not held"),
        "{error}"
    );
    runtimes[0].check(eth0("m1"), &results[0]).unwrap();
    for ((runtime, id), result) in runtimes.iter().zip(ids).zip(&results) {
        runtime.del(eth0(id), Some(result));
    }
    nobody_is_left(&lab);
    assert!(std::path::Path::new(REFERENCE).exists());
}

/// A container may change its own namespace as it likes. What cannot be read of it is its own
/// affair: its host goes on with all else.
#[test]
fn links_that_nobody_can_read_hold_up_no_other_container() {
    let lab = lab(1);
    let runtime = Runtime::new(&lab, "h1", "my-net");
    let (first, second) = (eth0("first"), eth0("second"));
    let result = runtime.add(first);
    // Names that are no UTF-8, in the container and on the host.
    let make = "ip link add $(printf '\\377\\376x') type veth; ip link property add dev lo altname \
                $(printf 'a\\377')";
    runtime.inside(first, &["sh", "-ec", make]).ok();
    lab.exec("h1", &["sh", "-ec", make]).ok();
    let create = "service create --name web --network my-net -- netd whoami --port 80";
    lab.ctl("h1", create).ok();
    let other = runtime.add(second);
    runtime
        .inside(
            second,
            &[
                "busybox",
                "ping",
                "-c",
                "1",
                "-W",
                "2",
                &addresses(&result)[0],
            ],
        )
        .ok();
    is_as_told(&runtime, second, &other);
    // What is damaged beside them is mended.
    runtime
        .inside(first, &["ip", "address", "flush", "dev", "eth0"])
        .ok();
    eventually("the container has its addresses back", || {
        let said = runtime.inside(
            second,
            &[
                "busybox",
                "ping",
                "-c",
                "1",
                "-W",
                "1",
                &addresses(&result)[0],
            ],
        );
        holds(said.code == 0, said)
    });
    lab.ctl("h1", "service rm web").ok();
    for pod in [first, second] {
        runtime.del(pod, None);
    }
    nobody_is_left(&lab);
}
