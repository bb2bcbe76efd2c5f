//! One of each kind on a network, each a service: a task, a pod on the third host, and a container
//! on every host that has an engine.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tests::{
    Lab, Said,
    cni::{Runtime, addresses, eth0},
    docker::{DOCKER, Docker, Generation},
    eventually, holds,
};

const TASK: &str = "by-task";
const POD: &str = "by-cni";

/// A host's engine.
pub struct Engine {
    host: &'static str,
    _daemon: Docker,
}

impl Engine {
    /// One of this generation.
    pub fn of(generation: Generation, lab: &Lab, host: &'static str) -> Self {
        let _daemon = Docker::of(generation, lab, host);
        // Where engines with a root of their own see it, too.
        let programs = "mkdir -p /run/programs; mount --bind /usr /run/programs";
        lab.exec(host, &["sh", "-ec", programs]).ok();
        Self { host, _daemon }
    }

    /// The name of its container.
    fn container(&self) -> String {
        format!("box-{}", self.host)
    }

    /// The name of its container's service, which is what that answers, too.
    fn service(&self) -> String {
        format!("by-docker-{}", self.host)
    }

    fn docker(&self, lab: &Lab, words: &[&str]) -> Said {
        lab.exec(self.host, &[&[DOCKER], words].concat())
    }

    /// Attaches the network, and starts a container that serves.
    fn serve(&self, lab: &Lab, network: &str, create: &str) {
        let of_cluster = format!("netd.network={network}");
        let driver = ["network", "create", "-d", "netd", "--ipam-driver", "netd"];
        let options = ["--ipv6", "-o", &of_cluster];
        let subnets = create
            .split(' ')
            .filter(|word| word.contains('/'))
            .flat_map(|subnet| ["--subnet", subnet]);
        let subnets: Vec<&str> = subnets.collect();
        let attach = [&driver[..], &options, &subnets, &[network]].concat();
        self.docker(lab, &attach).ok();
        let (container, service) = (self.container(), self.service());
        let label = format!("netd.service={service}");
        let run = ["run", "-d", "--name", &container, "--network", network];
        // With the programs of the host, for those of the image look names up in their own way.
        let programs = [
            "--label",
            &label,
            "-v",
            "/run/programs:/usr:ro",
            "-v",
            "/run/programs/lib:/lib:ro",
            "-v",
            "/run/programs/lib64:/lib64:ro",
            "busybox",
        ];
        let serve = format!(
            "mkdir /www; echo {service} >/www/index.html; exec /bin/busybox httpd -f -p 80 -h /www"
        );
        let serve = ["/bin/busybox", "sh", "-c", &serve];
        self.docker(lab, &[&run[..], &programs, &serve].concat())
            .ok();
    }
}

/// Makes the network, puts one of each kind on it, has all of them call all by name and virtual IP,
/// and takes everything down.
pub fn reaches_everybody(lab: &Lab, engines: &[Engine], create: &str) {
    let network = create.split(' ').next_back().unwrap();
    lab.ctl("h1", create).ok();
    let of_engines = engines.iter().map(Engine::service);
    let services: Vec<String> = [TASK.to_owned(), POD.to_owned()]
        .into_iter()
        .chain(of_engines)
        .collect();
    for external in &services[1..] {
        lab.ctl(
            "h1",
            &format!("service create --external --name {external} --network {network}"),
        )
        .ok();
    }
    let placed =
        format!("service create --name {TASK} --network {network} -- netd whoami --port 80");
    lab.ctl("h1", &placed).ok();
    for engine in engines {
        engine.serve(lab, network, create);
    }

    let mut runtime = Runtime {
        arguments: "K8S_POD_NAME=pod",
        ..Runtime::new(lab, "h3", network)
    };
    runtime.plugins[0]["args"] =
        json!({ "cni": { "labels": [{ "key": "netd.service", "value": POD }] } });
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

    let task = lab.running("h1", TASK).remove(0);
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
    // Who is who, as the cluster tells.
    let known = endpoints(lab, network, engines);
    let kinds: BTreeSet<(&str, &str)> = known
        .iter()
        .map(|(name, (kind, _))| (name.as_str(), kind.as_str()))
        .collect();
    let boxes: Vec<String> = engines.iter().map(Engine::container).collect();
    let expected = boxes.iter().map(|name| (name.as_str(), "docker"));
    assert_eq!(
        kinds,
        expected
            .chain([(task.as_str(), "task"), ("pod", "cni")])
            .collect()
    );
    let told: BTreeSet<String> = addresses(&result).into_iter().collect();
    assert_eq!(
        known["pod"].1.iter().cloned().collect::<BTreeSet<_>>(),
        told
    );

    for from in ["task", "pod"]
        .into_iter()
        .chain(boxes.iter().map(String::as_str))
    {
        let engine = engines.iter().find(|engine| engine.container() == from);
        let call = |words: &[&str]| match (from, engine) {
            (_, Some(engine)) => engine.docker(lab, &[&["exec", from], words].concat()),
            ("task", None) => as_task(words),
            (_, None) => as_pod(words),
        };
        for name in &services {
            let (answer, url) = (
                if name.starts_with("by-docker") {
                    format!("{name}\n")
                } else {
                    "task: ".to_owned()
                },
                format!("http://{name}/"),
            );
            for family in ["-4", "-6"] {
                eventually(
                    &format!("{network}: the {from} calls {name} {family}"),
                    || {
                        let said = call(&["curl", family, "-sS", "-m", "3", &url]);
                        holds(said.code == 0 && said.out.contains(&answer), said)
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

    if !create.contains("parent=") {
        hosts_reach(lab, network, &services, &known);
    }
    server.kill().unwrap();
    server.wait().unwrap();
    runtime.del(pod, Some(&result));
    lab.exec("h3", &["ip", "netns", "del", "pod"]).ok();
    for engine in engines {
        engine.docker(lab, &["rm", "-f", &engine.container()]).ok();
        engine.docker(lab, &["network", "rm", network]).ok();
    }
    lab.ctl("h1", &format!("service rm {}", services.join(" ")))
        .ok();
    lab.ctl("h1", "ipam check").ok();
    eventually("the network can go", || {
        let said = lab.ctl("h1", &format!("network rm {network}"));
        holds(said.code == 0, said)
    });
}

/// All hosts call all there is on the network by address, and by the names that hosts ask for.
fn hosts_reach(lab: &Lab, network: &str, services: &[String], known: &Endpoints) {
    lab.ctl("h1", &format!("network update --hosts on {network}"))
        .ok();
    for host in ["h1", "h2", "h3"] {
        let calls = |address: &str| {
            let url = match address.contains(':') {
                true => format!("http://[{address}]/"),
                false => format!("http://{address}/"),
            };
            eventually(&format!("{network}: {host} calls {address}"), || {
                let said = lab.exec(host, &["curl", "-sSg", "-m", "3", &url]);
                holds(said.code == 0 && !said.out.is_empty(), said)
            });
        };
        let named = known.keys().chain(services);
        for name in named {
            let name = format!("{name}.{network}.netd.internal");
            for kind in ["A", "AAAA"] {
                let found = eventually(&format!("{host} asks for {name} {kind}"), || {
                    let said = lab.exec(host, &["dig", "+short", "@127.0.0.110", &name, kind]);
                    let address = said.out.lines().next().map(str::to_owned);
                    address.ok_or_else(|| format!("{said:?}"))
                });
                calls(&found);
            }
        }
        for address in known.values().flat_map(|(_, addresses)| addresses) {
            calls(address);
        }
    }
}

/// Kind and addresses of each endpoint, by name.
type Endpoints = BTreeMap<String, (String, Vec<String>)>;

/// The endpoints of a network by name: kind and addresses. Once the cluster knows the names of all.
fn endpoints(lab: &Lab, network: &str, engines: &[Engine]) -> Endpoints {
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
        let has_names = engines
            .iter()
            .all(|engine| found.contains_key(&engine.container()));
        holds(has_names && found.len() == engines.len() + 2, &found).map(|()| found)
    })
}
