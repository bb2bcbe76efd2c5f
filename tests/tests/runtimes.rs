//! Runtimes that call CNI plugins, the real ones: Podman 4 with its CNI back end, and containerd. There is no registry: their
//! root file system is busybox.

#![allow(clippy::unwrap_used)]

use std::process::Child;

use tests::{Lab, Said, eventually, holds};

/// All of it is in the host's own /run; what is elsewhere is covered by mounts of the host's own.
const PREPARE: &str = r#"
mkdir -p /run/cni.d /run/plugins /run/root/bin /run/root/etc /run/root/proc /run/root/sys /run/root/dev /run/root/run /run/root/tmp
cp /bin/busybox /run/root/bin
for name in sh sleep ip cat httpd nslookup wget; do ln -s busybox /run/root/bin/$name; done
echo hello >/run/root/index.html
mkdir -p /var/lib/cni
mount -t tmpfs tmpfs /var/lib/cni
cat >/run/cni.d/10-netd.conflist <<END
{ "cniVersion": "1.0.0", "name": "dbnet", "plugins": [{ "type": "netd-cni", "network": "my-net",
  "capabilities": { "ips": true, "mac": true, "portMappings": true, "aliases": true, "bandwidth": true, "dns": true } }] }
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
cat >/run/containerd.toml <<END
version = 2
root = "/run/containerd-root"
state = "/run/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/containerd.sock"
[ttrpc]
  address = "/run/containerd.sock.ttrpc"
END
"#;

fn lab() -> Lab {
    let lab = Lab::up(2);
    lab.ctl("h1", "network create --attachable --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net").ok();
    lab.exec("h1", &["sh", "-ec", PREPARE]).ok();
    lab
}

fn script(lab: &Lab, script: &str) -> Said {
    lab.exec("h1", &["sh", "-ec", script])
}

fn podman(lab: &Lab, words: &str) -> Said {
    let podman = "podman --root /run/podman --runroot /run/podman-run --storage-driver vfs";
    script(lab, &format!("export CONTAINERS_CONF=/run/containers.conf; {podman} {words}"))
}

fn addresses(text: &str) -> Vec<&str> {
    let mut words = text.split_whitespace();
    std::iter::from_fn(|| words.by_ref().find(|word| word.starts_with("inet")).and(words.next()))
        .filter(|address| address.starts_with("10.0.9.") || address.starts_with("fd00:9:"))
        .collect()
}

#[test]
fn podman_attaches_finds_by_name_publishes_restarts_and_removes() {
    let lab = lab();
    podman(&lab, "run -d --name shell --network dbnet --rootfs /run/root sleep 1000").ok();
    script(&lab, "cp -r /run/root /run/other").ok();
    let run = "run -d --name web --network dbnet --ip 10.0.9.77 --mac-address 02:00:00:00:00:77 --network-alias db -p 8080:80";
    podman(&lab, &format!("{run} --rootfs /run/other httpd -f -p 80")).ok();
    let seen = podman(&lab, "exec web ip addr show eth0").ok();
    assert!(addresses(&seen)[0] == "10.0.9.77/24" && seen.contains("02:00:00:00:00:77"), "{seen}");
    for name in ["web", "db"] {
        eventually("its names lead to it", || {
            let said = podman(&lab, &format!("exec shell wget -q -O- http://{name}/index.html"));
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
    assert_eq!(addresses(&podman(&lab, "exec web ip addr show eth0").ok())[0], "10.0.9.77/24");
    podman(&lab, "network disconnect dbnet shell").ok();
    assert!(!podman(&lab, "exec shell ip link").ok().contains("eth0"));
    podman(&lab, "network connect dbnet shell").ok();
    assert_eq!(addresses(&podman(&lab, "exec shell ip addr show eth0").ok()).len(), 2);
    podman(&lab, "rm -f -t 0 shell web").ok();
    assert_eq!(lab.json("h1", "network inspect my-net")[0]["endpoints"].as_array().unwrap().len(), 0);
    lab.ctl("h1", "ipam check").ok();
}

/// A daemon that ends when dropped; what it started ends with the lab.
struct Containerd(Child);

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn containerd_attaches_and_a_container_that_nobody_removes_is_given_up() {
    let lab = lab();
    // Where go-cni looks.
    script(&lab, "mount --bind /run/cni.d /etc/cni/net.d; mount -t tmpfs tmpfs /opt; mkdir -p /opt/cni/bin").ok();
    script(&lab, "cp /usr/local/bin/netd-cni /usr/lib/cni/loopback /opt/cni/bin").ok();
    let start = ["sh", "-c", "exec containerd -c /run/containerd.toml >/run/containerd.log 2>&1"];
    let _containerd = Containerd(lab.command("h1", &start).spawn().unwrap());
    let ctr = |words: &str| script(&lab, &format!("ctr -a /run/containerd.sock {words}"));
    eventually("containerd answers", || {
        let said = ctr("version");
        holds(said.code == 0, said)
    });
    for name in ["c1", "c2"] {
        ctr(&format!("run -d --cni --rootfs /run/root {name} /bin/sleep 1000")).ok();
        let seen = ctr(&format!("task exec --exec-id look {name} /bin/ip addr show eth0")).ok();
        assert_eq!(addresses(&seen).len(), 2, "{seen}");
    }
    let count = || lab.json("h1", "network inspect my-net")[0]["endpoints"].as_array().unwrap().len();
    assert_eq!(count(), 2);
    // `ctr` itself calls DEL when it has waited for the task; here nobody does.
    ctr("task kill -s KILL c1").ok();
    eventually("its interface is given up", || holds(count() == 1, count()));
    assert_eq!(addresses(&ctr("task exec --exec-id again c2 /bin/ip addr show eth0").ok()).len(), 2);
    ctr("task kill -s KILL c2").ok();
    eventually("and so is the other", || holds(count() == 0, count()));
    lab.ctl("h1", "ipam check").ok();
}
