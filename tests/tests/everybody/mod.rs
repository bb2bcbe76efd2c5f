//! One of each kind on a network, each on a host of its own, each a service.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tests::{
    Lab, Said,
    cni::{Runtime, addresses, eth0},
    docker::Docker,
    eventually, holds,
};

const DOCKER: &str = "/usr/bin/docker";
const SERVICES: [&str; 3] = ["by-task", "by-docker", "by-cni"];

/// Runs a command inside of somebody.
type Call<'a> = dyn Fn(&[&str]) -> Said + 'a;

/// The engine of the second host.
pub fn engine(lab: &Lab) -> Docker {
    Docker::start(lab, "h2", &[])
}

/// Makes the network, puts one of each kind on it, has all of them call all by name and virtual IP,
/// and takes everything down.
pub fn reaches_everybody(lab: &Lab, create: &str) {
    let network = create.split(' ').next_back().unwrap();
    lab.ctl("h1", create).ok();
    for external in &SERVICES[1..] {
        lab.ctl(
            "h1",
            &format!("service create --external --name {external} --network {network}"),
        )
        .ok();
    }
    let placed =
        format!("service create --name by-task --network {network} -- netd whoami --port 80");
    lab.ctl("h1", &placed).ok();

    let docker = |words: &[&str]| lab.exec("h2", &[&[DOCKER], words].concat());
    let of_cluster = format!("netd.network={network}");
    let subnets = create
        .split(' ')
        .filter(|word| word.contains('/'))
        .flat_map(|subnet| ["--subnet", subnet]);
    let attach = [
        "network",
        "create",
        "-d",
        "netd",
        "--ipam-driver",
        "netd",
        "--ipv6",
        "-o",
        &of_cluster,
    ];
    docker(
        &attach
            .into_iter()
            .chain(subnets)
            .chain([network])
            .collect::<Vec<_>>(),
    )
    .ok();
    let serve =
        "mkdir /www; echo by-docker >/www/index.html; exec /bin/busybox httpd -f -p 80 -h /www";
    let serve = ["/bin/busybox", "sh", "-c", serve];
    let run = [
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        network,
        "--label",
        "netd.service=by-docker",
    ];
    // With the programs of the host, for those of the image look names up in their own way.
    let programs = [
        "-v",
        "/usr:/usr:ro",
        "-v",
        "/lib:/lib:ro",
        "-v",
        "/lib64:/lib64:ro",
        "busybox",
    ];
    docker(&[&run[..], &programs, &serve].concat()).ok();

    let mut runtime = Runtime {
        arguments: "K8S_POD_NAME=pod",
        ..Runtime::new(lab, "h3", network)
    };
    runtime.plugins[0]["args"] =
        json!({ "cni": { "labels": [{ "key": "netd.service", "value": "by-cni" }] } });
    let pod = eth0("pod");
    let result = runtime.add(pod);
    // Runtimes do so before they call plugins.
    runtime.inside(pod, &["ip", "link", "set", "lo", "up"]).ok();
    let mut server = lab.command(
        "h3",
        &[
            "ip", "netns", "exec", "pod", "netd", "whoami", "--port", "80",
        ],
    );
    let mut server = server.spawn().unwrap();
    let resolver = result["dns"]["nameservers"][0].as_str().unwrap().to_owned();

    let task = lab.running("h1", "by-task").remove(0);
    let task = task["name"].as_str().unwrap().to_owned();
    let as_pod = |words: &[&str]| {
        let shell = "echo nameserver $0 >/run/pod.conf; mount --bind /run/pod.conf \
                     /etc/resolv.conf; exec \"$@\"";
        runtime.inside(
            pod,
            &[&["unshare", "--mount", "sh", "-c", shell, &resolver], words].concat(),
        )
    };
    let as_task = |words: &[&str]| lab.inside("h1", &task, words);
    let as_box = |words: &[&str]| docker(&[&["exec", "box"], words].concat());

    // Who is who, as the cluster tells.
    let known = endpoints(lab, network);
    let kinds: BTreeSet<(&str, &str)> = known
        .iter()
        .map(|(name, (kind, _))| (name.as_str(), kind.as_str()))
        .collect();
    assert_eq!(
        kinds,
        [(task.as_str(), "task"), ("box", "docker"), ("pod", "cni")].into()
    );
    let told: BTreeSet<String> = addresses(&result).into_iter().collect();
    assert_eq!(
        known["pod"].1.iter().cloned().collect::<BTreeSet<_>>(),
        told
    );

    let everybody: [(&str, &Call<'_>); 3] =
        [("task", &as_task), ("container", &as_box), ("pod", &as_pod)];
    for (from, call) in everybody {
        for name in SERVICES {
            let (answer, url) = (
                if name == "by-docker" {
                    "by-docker\n"
                } else {
                    "task: "
                },
                format!("http://{name}/"),
            );
            for family in ["-4", "-6"] {
                eventually(
                    &format!("{network}: the {from} calls {name} {family}"),
                    || {
                        let said = call(&["curl", family, "-sS", "-m", "3", &url]);
                        holds(said.code == 0 && said.out.contains(answer), said)
                    },
                );
            }
        }
        // Each by its own name, too.
        for (name, (_, addresses)) in &known {
            for address in addresses {
                let database = if address.contains(':') {
                    "ahostsv6"
                } else {
                    "ahostsv4"
                };
                eventually(&format!("{network}: the {from} asks for {name}"), || {
                    let said = call(&["getent", database, name]);
                    holds(
                        said.out.split_whitespace().any(|word| word == address),
                        (address, said),
                    )
                });
            }
        }
    }

    server.kill().unwrap();
    server.wait().unwrap();
    runtime.del(pod, Some(&result));
    lab.exec("h3", &["ip", "netns", "del", "pod"]).ok();
    docker(&["rm", "-f", "box"]).ok();
    docker(&["network", "rm", network]).ok();
    lab.ctl("h1", &format!("service rm {}", SERVICES.join(" ")))
        .ok();
    lab.ctl("h1", "ipam check").ok();
    eventually("the network can go", || {
        let said = lab.ctl("h1", &format!("network rm {network}"));
        holds(said.code == 0, said)
    });
}

/// The endpoints of a network by name: kind and addresses. Once the cluster knows the names of all.
fn endpoints(lab: &Lab, network: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    eventually("everybody is known by name", || {
        let found = lab
            .json("h1", &format!("network inspect {network}"))
            .remove(0);
        let found = found["status"]["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|endpoint| {
                let addresses = endpoint["addresses"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(text)
                    .collect();
                (
                    text(&endpoint["name"]),
                    (text(&endpoint["kind"]), addresses),
                )
            });
        let found: BTreeMap<String, (String, Vec<String>)> = found.collect();
        holds(found.contains_key("box") && found.len() == 3, &found).map(|()| found)
    })
}
