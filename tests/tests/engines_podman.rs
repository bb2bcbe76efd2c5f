//! Podman 5 of Debian's trixie, whose netavark calls our plugin. There is no registry: root file
//! systems are busybox.

#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::{Value, json};
use tests::{Lab, Said, docker::Generation, eventually, holds};

/// The plugin is where `make install` puts it, in the root that Podman runs in.
const PREPARE: &str = r#"
mkdir -p /run/root/bin /run/root/etc /run/root/proc /run/root/sys /run/root/dev /run/root/run
mkdir -p /run/root/tmp
cp /bin/busybox /run/root/bin
for name in sh sleep ip cat httpd nslookup wget; do ln -s busybox /run/root/bin/$name; done
echo hello >/run/root/index.html
cat >/run/containers.conf <<END
[network]
network_backend = "netavark"
network_config_dir = "/run/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
END
cp /usr/local/bin/netd-netavark /run
nsenter --mount=/proc/$(cat /run/engine/pid)/ns/mnt -- \
  install -D -m 755 -t /usr/local/lib/netavark /run/netd-netavark
"#;

/// Where Podman keeps everything, and what it needs not say of this machine's kernel.
const PODMAN: &str = "export CONTAINERS_CONF=/run/containers.conf PODMAN_IGNORE_CGROUPSV1_WARNING=1
    podman --root /run/podman --runroot /run/podman-run --storage-driver vfs";

struct Host(Lab);

impl Host {
    /// The first host of a lab, where the page's first command has been run.
    fn up() -> Self {
        let lab = Lab::up(2);
        Generation::Trixie.lay(&lab, "h1");
        let host = Self(lab);
        host.sh(PREPARE).ok();
        host.sh(&command("swarmctl ")).ok();
        host
    }

    fn sh(&self, script: &str) -> Said {
        self.0.exec("h1", &["sh", "-ec", script])
    }

    fn podman(&self, words: &str) -> Said {
        self.sh(&format!("{PODMAN} {words}"))
    }

    /// Starts a container with a root of its own.
    fn run(&self, name: &str, options: &str, command: &str) -> Said {
        self.sh(&format!("cp -r /run/root /run/root-{name}")).ok();
        self.podman(&format!(
            "run -d --name {name} {options} --rootfs /run/root-{name} {command}"
        ))
    }

    /// Its addresses on `my-net`, with their lengths.
    fn addresses(&self, name: &str) -> Vec<String> {
        let seen = self.podman(&format!("exec {name} ip addr")).ok();
        let words = seen.split_whitespace().map(str::to_owned);
        let is_ours = |word: &String| word.starts_with("10.0.9.") || word.starts_with("fd00:9:");
        words.filter(is_ours).collect()
    }

    /// What one finds behind a name from inside of another.
    #[track_caller]
    fn finds(&self, from: &str, name: &str, answer: &str) {
        eventually("the name leads to it", || {
            let url = format!("http://{name}/index.html");
            let said = self.podman(&format!("exec {from} wget -q -O- {url}"));
            holds(said.out.contains(answer), said)
        });
    }

    /// What one finds on a port of the host from the other host.
    fn fetch(&self, port: u16) -> Said {
        let node = self.0.json("h1", "node inspect h1").remove(0);
        let url = format!(
            "http://{}:{port}/index.html",
            node["vtep"].as_str().unwrap()
        );
        self.0.exec("h2", &["curl", "-sS", "-m", "3", &url])
    }

    fn endpoints(&self, network: &str) -> Vec<Value> {
        let found = self
            .0
            .json("h1", &format!("network inspect {network}"))
            .remove(0);
        found["status"]["endpoints"].as_array().unwrap().clone()
    }
}

/// A command of docs/podman.md that begins so.
fn command(beginning: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/podman.md");
    let page = fs::read_to_string(page).unwrap();
    let mut lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    let found = lines.find(|line| line.starts_with(beginning)).unwrap();
    found.split("  #").next().unwrap().trim_end().to_owned()
}

/// The page's command that makes a network.
fn create() -> String {
    let command = command("podman network create");
    command.strip_prefix("podman ").unwrap().to_owned()
}

#[test]
fn containers_are_attached_found_published_and_removed() {
    let host = Host::up();
    host.podman(&create()).ok();
    let told = host.podman("network inspect dbnet").ok();
    let told: Value = serde_json::from_str(&told).unwrap();
    let subnets = json!([{ "subnet": "10.0.9.0/24", "gateway": "10.0.9.1" },
        { "subnet": "fd00:9::/64", "gateway": "fd00:9::1" }]);
    assert_eq!(told[0]["subnets"], subnets);

    let options = "--network dbnet --network-alias sh --ip6 fd00:9::99";
    host.run("shell", options, "sleep 1000").ok();
    assert_eq!(host.addresses("shell")[1], "fd00:9::99/64");
    let mut options = "--network dbnet:ip=10.0.9.77,mac=02:00:00:00:00:77".to_owned();
    options += ",alias=db,netd.service=web,netd.port=http=80 -p 8080:80";
    host.0
        .ctl(
            "h1",
            "service create --external --name web --network my-net",
        )
        .ok();
    host.run("server", &options, "httpd -f -p 80").ok();
    assert_eq!(host.addresses("server")[0], "10.0.9.77/24");
    let link = host.podman("exec server ip link").ok();
    assert!(link.contains("02:00:00:00:00:77"), "{link}");
    assert_eq!(
        host.podman("exec shell cat /etc/resolv.conf").ok(),
        "nameserver 10.0.9.1\nnameserver fd00:9::1\n"
    );
    for name in ["server", "db", "web", "tasks.web"] {
        host.finds("shell", name, "hello");
    }
    let said = host.podman("exec server nslookup sh").ok();
    assert!(said.contains("fd00:9::99"), "{said}");
    eventually("its port is led to it", || {
        let said = host.fetch(8080);
        holds(said.out.trim() == "hello", said)
    });
    host.0
        .ctl(
            "h2",
            "service create --name task --network my-net -- netd whoami --port 80",
        )
        .ok();
    host.finds("shell", "task", "task: task.1");

    host.podman("restart -t 0 server").ok();
    assert_eq!(host.addresses("server")[0], "10.0.9.77/24");
    host.podman("network disconnect dbnet shell").ok();
    assert_eq!(host.addresses("shell"), Vec::<String>::new());
    host.podman("network connect --alias again dbnet shell")
        .ok();
    assert_eq!(host.addresses("shell").len(), 2);
    let said = host.podman("exec server nslookup again").ok();
    assert!(said.contains(host.addresses("shell")[0].trim_end_matches("/24")));

    host.podman("rm -f -t 0 shell server").ok();
    eventually("nothing is left", || {
        let endpoints = host.endpoints("my-net");
        holds(
            endpoints.iter().all(|found| found["kind"] != "cni"),
            endpoints,
        )
    });
    host.podman("network rm dbnet").ok();
    host.0.ctl("h1", "ipam check").ok();
}

#[test]
fn a_container_publishes_by_one_network_that_leads_out() {
    let host = Host::up();
    for line in [
        "network create --attachable --subnet 10.0.10.0/24 second",
        "network create --attachable --internal --subnet 10.0.11.0/24 inner",
    ] {
        host.0.ctl("h1", line).ok();
    }
    host.podman(&create()).ok();
    for name in ["second", "inner"] {
        host.podman(&format!("network create --driver netd-netavark {name}"))
            .ok();
    }
    let names = ["my-net", "second", "inner"];
    let both = "--network dbnet --network second -p 8080:80";
    let refused = host.run("server", both, "httpd -f -p 80");
    println!("{refused:?}");
    assert!(
        refused.code != 0 && refused.err.contains("8080"),
        "{refused:?}"
    );
    host.podman("rm -f -t 0 server").ok();
    assert_eq!(names.map(|name| host.endpoints(name).len()), [0, 0, 0]);

    let options = "--network dbnet --network inner -p 8080:80";
    let said = host.run("server", options, "httpd -f -p 80");
    assert!(
        said.err
            .contains("network inner is internal: it publishes no ports of container server"),
        "{said:?}"
    );
    said.ok();
    eventually("its port is led to it", || {
        let said = host.fetch(8080);
        holds(said.out.trim() == "hello", said)
    });
    assert_eq!(names.map(|name| host.endpoints(name).len()), [1, 0, 1]);
    host.podman("rm -f -t 0 server").ok();
    assert_eq!(names.map(|name| host.endpoints(name).len()), [0, 0, 0]);
    host.0.ctl("h1", "ipam check").ok();
}

#[test]
fn refusals_reach_podman_and_leave_nothing() {
    let host = Host::up();
    let refused = |words: &str, why: &str| {
        let said = host.podman(words);
        assert!(
            said.code != 0 && said.err.contains(why),
            "{words}: {said:?}"
        );
    };
    let create = create();
    let missing = create.replace("my-net", "no-net");
    refused(
        &missing,
        "there is no network \"no-net\"; next: `swarmctl network create",
    );
    refused(
        &format!("{create} --subnet 10.0.8.0/24"),
        "leave --subnet out",
    );
    refused(&format!("{create} --internal"), "leave --internal out");
    host.podman(&create).ok();
    host.run("one", "--network dbnet --ip 10.0.9.7", "sleep 1000")
        .ok();
    let said = host.run("two", "--network dbnet --ip 10.0.9.7", "sleep 1000");
    assert!(said.code != 0 && said.err.contains("10.0.9.7"), "{said:?}");
    let said = host.run("three", "--network dbnet:mtu=1400", "sleep 1000");
    assert!(
        said.code != 0 && said.err.contains("netd.service"),
        "{said:?}"
    );
    assert_eq!(host.endpoints("my-net").len(), 1);

    // What Podman has not told anybody is found by netd itself.
    let place = "{{.State.ConmonPid}} {{.State.Pid}} {{.NetworkSettings.SandboxKey}}";
    let place = host.podman(&format!("inspect --format '{place}' one")).ok();
    let [monitor, process, namespace] = place.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{place}")
    };
    let end = format!("kill -9 {monitor} {process}; umount -l {namespace} && rm {namespace}");
    host.sh(&end).ok();
    eventually("its interface is given up", || {
        let endpoints = host.endpoints("my-net");
        holds(endpoints.is_empty(), endpoints)
    });
    host.0.ctl("h1", "ipam check").ok();
}
