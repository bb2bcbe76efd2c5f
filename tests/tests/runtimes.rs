//! Runtimes that call CNI plugins, the real ones: Podman 4 with its CNI back end, containerd, and
//! the CNI project's own library (libcni, Debian's source). There is no registry: their root file
//! system is busybox.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command},
};

use serde_json::{Value, json};
use tests::{Lab, Said, cni, eventually, first_process, holds, run};
use tokio::runtime::Builder;

/// Kubernetes' way to ask a runtime.
#[allow(missing_docs, clippy::all)]
mod cri {
    tonic::include_proto!("runtime.v1");
}

/// All of it is in the host's own /run; what is elsewhere is covered by mounts of the host's own.
const PREPARE: &str = r#"
mkdir -p /run/cni.d /run/plugins /run/root/bin /run/root/etc /run/root/proc /run/root/sys
mkdir -p /run/root/dev /run/root/run /run/root/tmp
cp /bin/busybox /run/root/bin
for name in sh sleep ip cat httpd nslookup wget; do ln -s busybox /run/root/bin/$name; done
echo hello >/run/root/index.html
mkdir -p /var/lib/cni
mount -t tmpfs tmpfs /var/lib/cni
cat >/run/cni.d/10-netd.conflist <<END
{ "cniVersion": "1.0.0", "name": "dbnet", "plugins": [{ "type": "netd-cni", "network": "my-net",
  "capabilities": { "ips": true, "mac": true, "portMappings": true, "aliases": true,
      "bandwidth": true, "dns": true } }] }
END
cat >/run/containers.conf <<END
[network]
network_backend = "cni"
network_config_dir = "/run/cni.d"
cni_plugin_dirs = ["/usr/local/bin", "/usr/lib/cni"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
END
cp /usr/local/bin/netd-cni /usr/lib/cni/loopback /run/plugins
cat >/run/containerd.toml <<END
version = 2
root = "/run/containerd-root"
state = "/run/containerd-state"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/run/plugins"
  conf_dir = "/run/cni.d"
[grpc]
  address = "/run/containerd.sock"
[ttrpc]
  address = "/run/containerd.sock.ttrpc"
END
"#;

fn lab() -> Lab {
    let lab = Lab::up(2);
    lab.ctl(
        "h1",
        "network create --attachable --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net",
    )
    .ok();
    lab.exec("h1", &["sh", "-ec", PREPARE]).ok();
    lab
}

fn script(lab: &Lab, script: &str) -> Said {
    lab.exec("h1", &["sh", "-ec", script])
}

fn podman(lab: &Lab, words: &str) -> Said {
    let podman = "podman --root /run/podman --runroot /run/podman-run --storage-driver vfs";
    script(
        lab,
        &format!("export CONTAINERS_CONF=/run/containers.conf; {podman} {words}"),
    )
}

fn addresses(text: &str) -> Vec<&str> {
    let mut words = text.split_whitespace();
    std::iter::from_fn(|| {
        words
            .by_ref()
            .find(|word| word.starts_with("inet"))
            .and(words.next())
    })
    .filter(|address| address.starts_with("10.0.9.") || address.starts_with("fd00:9:"))
    .collect()
}

#[test]
fn podman_attaches_finds_by_name_publishes_restarts_and_removes() {
    let lab = lab();
    podman(
        &lab,
        "run -d --name shell --network dbnet --rootfs /run/root sleep 1000",
    )
    .ok();
    script(&lab, "cp -r /run/root /run/other").ok();
    let run = "run -d --name web --network dbnet --ip 10.0.9.77 --mac-address 02:00:00:00:00:77 \
               --network-alias db -p 8080:80";
    podman(&lab, &format!("{run} --rootfs /run/other httpd -f -p 80")).ok();
    let seen = podman(&lab, "exec web ip addr show eth0").ok();
    assert!(
        addresses(&seen)[0] == "10.0.9.77/24" && seen.contains("02:00:00:00:00:77"),
        "{seen}"
    );
    for name in ["web", "db"] {
        eventually("its names lead to it", || {
            let said = podman(
                &lab,
                &format!("exec shell wget -q -O- http://{name}/index.html"),
            );
            holds(said.out.trim() == "hello", said)
        });
    }
    let node = lab.json("h1", "node inspect h1").remove(0);
    let url = format!("http://{}:8080/index.html", node["vtep"].as_str().unwrap());
    eventually("its port is led to it", || {
        let said = lab.exec("h2", &["curl", "-sS", "-m", "3", &url]);
        holds(said.out.trim() == "hello", said)
    });
    podman(&lab, "restart -t 0 web").ok();
    assert_eq!(
        addresses(&podman(&lab, "exec web ip addr show eth0").ok())[0],
        "10.0.9.77/24"
    );
    podman(&lab, "network disconnect dbnet shell").ok();
    assert!(!podman(&lab, "exec shell ip link").ok().contains("eth0"));
    podman(&lab, "network connect dbnet shell").ok();
    assert_eq!(
        addresses(&podman(&lab, "exec shell ip addr show eth0").ok()).len(),
        2
    );
    podman(&lab, "rm -f -t 0 shell web").ok();
    assert_eq!(
        lab.json("h1", "network inspect my-net")[0]["status"]["endpoints"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    lab.ctl("h1", "ipam check").ok();
}

const START: &str = "echo $$ >/run/containerd.pid; exec containerd -c /run/containerd.toml \
                     >>/run/containerd.log 2>&1";

/// An image of one file, as there is no registry, for what holds a pod's namespaces; and wait until
/// the CRI knows it.
const PAUSE: &str = r#"
mkdir -p /run/pause; cd /run/pause
tar -C /run/root -cf layer.tar .
digest=$(sha256sum layer.tar | cut -d ' ' -f 1)
cat >config.json <<END
{ "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/httpd", "-f", "-p", "80"] },
  "rootfs": { "type": "layers", "diff_ids": ["sha256:$digest"] } }
END
echo '[{ "Config": "config.json", "RepoTags": ["localhost/pause:1"],
    "Layers": ["layer.tar"] }]' >manifest.json
tar -cf ../pause.tar manifest.json config.json layer.tar
ctr -a /run/containerd.sock -n k8s.io images import ../pause.tar
"#;

/// A daemon that ends with its lab.
struct Containerd<'a> {
    lab: &'a Lab,
    child: Child,
}

impl<'a> Containerd<'a> {
    fn start(lab: &'a Lab) -> Self {
        let child = lab.command("h1", &["sh", "-c", START]).spawn().unwrap();
        let containerd = Self { lab, child };
        eventually("containerd answers", || {
            let said = containerd.ctr("version");
            holds(said.code == 0, said)
        });
        containerd
    }

    fn ctr(&self, words: &str) -> Said {
        script(self.lab, &format!("ctr -a /run/containerd.sock {words}"))
    }

    /// Kill -9. What it started stays.
    fn crash(mut self) {
        script(self.lab, "kill -9 $(cat /run/containerd.pid)").ok();
        self.child.wait().unwrap();
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The CRI, called from outside of the host.
fn ask<T, F>(lab: &Lab, work: impl FnOnce(Cri) -> F) -> Result<T, tonic::Status>
where
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let socket = format!(
        "/proc/{}/root/run/containerd.sock",
        first_process(lab, "h1")
    );
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let channel = api::connect(Path::new(&socket)).await.unwrap();
        work(Cri::new(channel)).await
    });
    answer.map(tonic::Response::into_inner)
}

type Cri = cri::runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>;

#[test]
fn containerd_attaches_and_abandoned_containers_are_given_up() {
    let lab = lab();
    // Where go-cni looks.
    script(
        &lab,
        "mount --bind /run/cni.d /etc/cni/net.d; mount -t tmpfs tmpfs /opt; mkdir -p /opt/cni/bin",
    )
    .ok();
    script(
        &lab,
        "cp /usr/local/bin/netd-cni /usr/lib/cni/loopback /opt/cni/bin",
    )
    .ok();
    let containerd = Containerd::start(&lab);
    let ctr = |words: &str| containerd.ctr(words);
    for name in ["c1", "c2"] {
        ctr(&format!(
            "run -d --cni --rootfs /run/root {name} /bin/sleep 1000"
        ))
        .ok();
        let seen = ctr(&format!(
            "task exec --exec-id look {name} /bin/ip addr show eth0"
        ))
        .ok();
        assert_eq!(addresses(&seen).len(), 2, "{seen}");
    }
    let count = || {
        lab.json("h1", "network inspect my-net")[0]["status"]["endpoints"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count(), 2);
    // `ctr` itself calls DEL when it has waited for the task; here nobody does.
    ctr("task kill -s KILL c1").ok();
    eventually("its interface is given up", || holds(count() == 1, count()));
    assert_eq!(
        addresses(&ctr("task exec --exec-id again c2 /bin/ip addr show eth0").ok()).len(),
        2
    );
    ctr("task kill -s KILL c2").ok();
    eventually("and so is the other", || holds(count() == 0, count()));
    lab.ctl("h1", "ipam check").ok();
}

#[test]
fn pods_of_containerds_cri_are_attached_and_outlive_containerd() {
    let lab = lab();
    let containerd = Containerd::start(&lab);
    script(&lab, PAUSE).ok();
    eventually("the CRI knows the image", || {
        let said = containerd.ctr("-n k8s.io images ls");
        holds(said.out.contains("io.cri-containerd.image=managed"), said)
    });
    let limit = (
        "kubernetes.io/ingress-bandwidth".to_owned(),
        "20M".to_owned(),
    );
    let config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "pod-0".into(),
            uid: "1".into(),
            namespace: "prod".into(),
        }),
        hostname: "pod-0".into(),
        dns_config: Some(cri::DnsConfig {
            servers: vec!["10.0.9.1".into()],
            searches: vec!["my-net".into()],
        }),
        port_mappings: vec![cri::PortMapping {
            container_port: 80,
            host_port: 8080,
        }],
        annotations: [limit].into(),
    };
    let request = cri::RunPodSandboxRequest {
        config: Some(config),
    };
    // It is there before netd has made any namespace on this host.
    let pod = ask(&lab, async |mut cri| cri.run_pod_sandbox(request).await).unwrap();
    let status = || {
        let status = ask(&lab, async |mut cri| {
            cri.pod_sandbox_status(pod.clone()).await
        })
        .unwrap()
        .status
        .unwrap();
        let network = status.network.unwrap_or_default();
        let all = [network.ip]
            .into_iter()
            .chain(network.additional_ips.into_iter().map(|also| also.ip));
        (status.state, all.collect::<Vec<_>>())
    };
    let endpoints = || {
        let network = lab.json("h1", "network inspect my-net").remove(0);
        let found = network["status"]["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|endpoint| endpoint["kind"] == "cni");
        found
            .map(|found| (found["name"].clone(), found["addresses"].clone()))
            .collect::<Vec<_>>()
    };
    let (state, addresses) = status();
    assert_eq!(
        (state, addresses.len(), endpoints()),
        (0, 2, vec![(json!("pod-0-prod"), json!(addresses))])
    );
    let network = lab.json("h1", "network inspect my-net").remove(0)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let limits = lab
        .exec(
            "h1",
            &["tc", "-n", &format!("netd-{network}"), "qdisc", "show"],
        )
        .ok();
    assert!(limits.contains("rate 20Mbit"), "{limits}");
    let inside = |words: &str| {
        containerd.ctr(&format!(
            "-n k8s.io task exec --exec-id look {} {words}",
            pod.pod_sandbox_id
        ))
    };
    assert_eq!(
        inside("/bin/cat /etc/resolv.conf").ok(),
        "search my-net\nnameserver 10.0.9.1\n"
    );
    lab.ctl(
        "h1",
        "service create --name web --network my-net -- netd whoami --port 80",
    )
    .ok();
    eventually("it reaches services by name", || {
        let said = inside("/bin/wget -q -O - http://web/");
        holds(said.out.contains("task: web.1"), said)
    });
    let url = format!(
        "http://{}:8080/index.html",
        lab.json("h1", "node inspect h1")[0]["vtep"]
            .as_str()
            .unwrap()
    );
    let fetch = || lab.exec("h2", &["curl", "-sS", "-m", "3", &url]);
    eventually("the host's port leads to it", || {
        holds(fetch().out == "hello\n", fetch())
    });

    containerd.crash();
    assert_eq!(fetch().ok(), "hello\n");
    let _containerd = Containerd::start(&lab);
    eventually("containerd knows it again", || {
        holds(status() == (0, addresses.clone()), status())
    });
    assert_eq!((fetch().ok(), endpoints().len()), ("hello\n".into(), 1));
    for _ in 0..2 {
        ask(&lab, async |mut cri| {
            cri.stop_pod_sandbox(pod.clone()).await
        })
        .unwrap();
        assert_eq!(endpoints(), []);
    }
    ask(&lab, async |mut cri| {
        cri.remove_pod_sandbox(pod.clone()).await
    })
    .unwrap();
    eventually("the host's port leads nowhere", || {
        holds(fetch().code != 0, fetch())
    });
    lab.ctl("h1", "ipam check").ok();
}

/// Builds a program against Debian's libcni, and gives its path.
fn libcni() -> String {
    let (source, target) = (
        env!("CARGO_MANIFEST_DIR"),
        Path::new(env!("CARGO_TARGET_TMPDIR")),
    );
    let program = target.join("libcni");
    let mut build = Command::new("go");
    build
        .args(["build", "-o"])
        .arg(&program)
        .arg(format!("{source}/tests/runtimes/libcni.go"));
    build
        .env("GOPATH", "/usr/share/gocode")
        .env("GO111MODULE", "off")
        .env("CGO_ENABLED", "0");
    build.env("GOCACHE", target.join("go")).env("GOFLAGS", "");
    run(&mut build).ok();
    program.display().to_string()
}

/// Configuration lists of a host, called by the library.
struct Library<'a> {
    lab: &'a Lab,
    program: &'a str,
    list: &'a str,
}

impl Library<'_> {
    fn call(&self, verb: &str, container: &str, variables: &[&str]) -> Said {
        let namespace = format!("/run/netns/{container}");
        let path = format!("CNI_PATH=/usr/local/bin:{}", cni::REFERENCE);
        let words = [self.program, verb, "/run/cni.d", self.list, &namespace];
        self.lab
            .exec("h1", &[&["env", &path], variables, &words].concat())
    }

    /// The whole life of a container: `look` sees its result while it is there.
    fn lives(&self, container: &str, variables: &[&str], look: impl FnOnce(&Value)) {
        self.lab.exec("h1", &["ip", "netns", "add", container]).ok();
        let result = serde_json::from_str(&self.call("add", container, variables).ok()).unwrap();
        self.call("check", container, variables).ok();
        look(&result);
        self.call("del", container, variables).ok();
        self.call("del", container, variables).ok();
        let left = self
            .lab
            .exec("h1", &["ip", "-n", container, "-o", "link"])
            .ok();
        assert_eq!(left.lines().count(), 1, "{left}");
        self.lab.exec("h1", &["ip", "netns", "del", container]).ok();
    }

    fn inside(&self, container: &str, words: &[&str]) -> Said {
        self.lab
            .exec("h1", &[&["ip", "netns", "exec", container], words].concat())
    }
}

#[test]
fn the_cni_library_attaches_checks_and_removes_by_any_list() {
    let (lab, program) = (lab(), libcni());
    lab.ctl(
        "h1",
        "network create --attachable --subnet 10.0.8.0/24 four",
    )
    .ok();
    let of = |list| Library {
        lab: &lab,
        program: &program,
        list,
    };
    let list = |name: &str, plugins: Value| {
        let text = json!({ "cniVersion": "0.4.0", "name": name, "plugins": plugins,
            "disableCheck": name == "chain" });
        script(
            &lab,
            &format!("cat >/run/cni.d/{name}.conflist <<'END'\n{text}\nEND"),
        )
        .ok();
    };
    // As docs/cni.md prints it.
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cni.md")).unwrap();
    let printed: String = docs
        .lines()
        .skip_while(|line| !line.starts_with("    { "))
        .take_while(|line| !line.is_empty())
        .collect();
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["name"], "my-net");
    script(
        &lab,
        &format!("cat >/run/cni.d/my-net.conflist <<'END'\n{printed}\nEND"),
    )
    .ok();

    let library = of("my-net");
    let capabilities = json!({
        "ips": ["10.0.9.77/24", "fd00:9::77/64"], "mac": "02:00:00:00:00:77", "aliases": ["db"],
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
    });
    library.lives("c1", &[&format!("CAP_ARGS={capabilities}")], |result| {
        assert_eq!(cni::addresses(result), ["10.0.9.77", "fd00:9::77"]);
        assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:77");
        let url = format!(
            "http://{}:8080/",
            lab.json("h1", "node inspect h1")[0]["vtep"]
                .as_str()
                .unwrap()
        );
        let mut server = lab
            .command(
                "h1",
                &[
                    "ip", "netns", "exec", "c1", "netd", "whoami", "--port", "80",
                ],
            )
            .spawn()
            .unwrap();
        eventually("its port is led to it", || {
            let said = lab.exec("h2", &["curl", "-sS", "-m", "3", &url]);
            holds(said.code == 0, said)
        });
        server.kill().unwrap();
        server.wait().unwrap();
        for name in ["db", "c1"] {
            eventually("its names lead to it", || {
                let said = library.inside("c1", &["dig", "+short", "+tries=1", "@10.0.9.1", name]);
                holds(said.out.trim() == "10.0.9.77", said)
            });
        }
    });
    let arguments =
        "CNI_ARGS=IgnoreUnknown=1;IP=10.0.9.88;MAC=02:00:00:00:00:88;K8S_POD_NAME=web-0";
    library.lives("c2", &[arguments], |result| {
        assert_eq!(
            (&cni::addresses(result)[0], &result["interfaces"][0]["mac"]),
            (&"10.0.9.88".to_owned(), &json!("02:00:00:00:00:88"))
        );
    });

    let ours = json!({ "type": "netd-cni", "network": "four" });
    let tuning = json!({ "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1" } });
    // Debian's `portmap` 1.1 looks for rules of IPv6 where there are none: the library is told not
    // to let it CHECK.
    let portmap =
        json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } });
    list("tuned", json!([ours, tuning]));
    list("chain", json!([ours, tuning, portmap]));
    let ports =
        json!({ "portMappings": [{ "hostPort": 8081, "containerPort": 80, "protocol": "tcp" }] });
    for name in ["tuned", "chain"] {
        of(name).lives("c3", &[&format!("CAP_ARGS={ports}")], |result| {
            let count = |key: &str| result[key].as_array().unwrap().len();
            assert_eq!((count("interfaces"), count("ips")), (1, 1));
            let sysctl = library
                .inside("c3", &["cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter"])
                .ok();
            assert_eq!(sysctl.trim(), "1");
            let rules = lab
                .exec(
                    "h1",
                    &[
                        "sh",
                        "-c",
                        "iptables-save -t nat | grep -c 'dport 8081.*DNAT'",
                    ],
                )
                .out;
            assert_eq!(rules.trim(), if name == "chain" { "1" } else { "0" });
        });
    }

    list(
        "under",
        json!([{ "type": "bridge", "bridge": "br-own", "isGateway": true,
            "ipam": { "type": "netd-cni", "network": "my-net" } }]),
    );
    of("under").lives("c4", &[], |result| {
        let seen = library.inside("c4", &["ip", "addr", "show", "eth0"]).ok();
        let seen: BTreeSet<String> = addresses(&seen)
            .into_iter()
            .map(|address| address.split('/').next().unwrap().to_owned())
            .collect();
        assert_eq!(seen, cni::addresses(result).into_iter().collect());
        assert_eq!(
            lab.json("h1", "network inspect my-net")[0]["status"]["endpoints"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    });

    let missing = of("my-net").call("add", "nowhere", &[]).refused();
    assert!(missing.contains("nowhere"), "{missing}");
    for network in ["my-net", "four"] {
        let endpoints =
            lab.json("h1", &format!("network inspect {network}"))[0]["status"]["endpoints"].clone();
        assert_eq!(endpoints, json!([]));
    }
    lab.ctl("h1", "ipam check").ok();
}
