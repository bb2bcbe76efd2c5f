//! One host: its namespaces, and the process of its data plane.

use super::*;

pub struct Host {
    pub index: usize,
    pub vtep: IpAddr,
    pub directory: tempfile::TempDir,
    pub daemon: Option<Child>,
    pub keeper: Keeper,
}

impl Host {
    pub fn new(index: usize, vtep: &str, fabric: &Keeper) -> Self {
        let shell = "mount -t tmpfs none /run && echo ok && exec cat";
        let keeper = Keeper::new(&[
            "unshare",
            "--net",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            shell,
        ]);
        keeper.run("ip link set lo up");
        fabric.run(&format!(
            "ip link add port{index} master br0 type veth peer name eth0 netns {}",
            keeper.0.id()
        ));
        fabric.run(&format!("ip link set port{index} up"));
        keeper.run("ip link set eth0 up");
        keeper.run(&format!("ip addr add 192.0.2.{}/24 dev eth0", index + 1));
        keeper.run(&format!(
            "ip addr add fd00:cafe::{}/64 dev eth0 nodad",
            index + 1
        ));
        let directory = tempfile::tempdir().unwrap();
        Self {
            index,
            vtep: vtep.parse().unwrap(),
            directory,
            daemon: None,
            keeper,
        }
    }

    pub fn configure(&mut self, config: &NodeConfig) {
        write_whole(
            &self.directory.path().join("config"),
            &serde_json::to_vec(&config.snapshot()).unwrap(),
        );
        if self.daemon.is_none() {
            self.start();
        }
    }

    pub fn start(&mut self) {
        let _ = fs::remove_file(self.directory.path().join("status"));
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.keeper.0.id().to_string(), "--net", "--mount"]);
        command
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "host", "--nocapture"]);
        command
            .env(DIRECTORY, self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        self.daemon = Some(command.spawn().unwrap());
    }

    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    pub fn status(&self) -> String {
        fs::read_to_string(self.directory.path().join("status")).unwrap_or_default()
    }

    /// A number of its status.
    pub fn count(&self, name: &str) -> u64 {
        let status = self.status();
        let (_, rest) = status.split_once(name).unwrap();
        let number = rest.split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    pub fn wait_settled(&self, generation: u64) {
        let settled = format!("{generation} true");
        self.wait("it is settled", |host| host.status().starts_with(&settled));
    }

    pub fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "host {} waited until {what}: {}",
                self.index,
                self.status()
            );
            thread::sleep(POLL);
        }
    }

    /// Damages the host and waits until it looks as before.
    pub fn repairs(&self, damage: &str) {
        let before = self.shape();
        self.run(damage);
        let start = Instant::now();
        let deadline = Instant::now() + PATIENCE;
        while self.shape() != before {
            assert!(
                Instant::now() < deadline,
                "{damage}: {}\nbefore:\n{before}\nnow:\n{}",
                self.status(),
                self.shape()
            );
            thread::sleep(POLL);
        }
        println!("{:>5} ms {damage}", start.elapsed().as_millis());
        self.wait_settled(1);
    }

    /// What is there, numbers of links left out.
    pub fn shape(&self) -> String {
        let picture = self.picture();
        let lines = picture.lines().map(|line| match line.split_once(": ") {
            Some((number, rest)) if number.trim().parse::<u32>().is_ok() => strip_peer(rest),
            _ => line.to_owned(),
        });
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines.join("\n")
    }

    /// All links, addresses, routes and neighbours of ours, and a sysctl or two.
    pub fn picture(&self) -> String {
        let mut shell = String::from("ip -o link | grep -e nu- -e vx-; ip route; ip -6 route;");
        for namespace in [netd_network(), task(self.index)] {
            for show in [
                "-o link",
                "-o addr",
                "route",
                "-6 route",
                "neigh show nud permanent",
                "-6 neigh show nud permanent",
            ] {
                shell += &format!("ip -n {namespace} {show};");
            }
        }
        shell += &format!("bridge -n {} fdb;", netd_network());
        let sysctls =
            "sysctl -a --pattern 'proxy_(arp|delay)$|all.accept_local$|^net.ipv4.ip_forward$'";
        shell += &format!("ip netns exec {} {sysctls} 2>&1", netd_network());
        let output = self.keeper.enter(&["sh", "-c", &shell]);
        text(&output)
            .lines()
            .map(without_states)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Packets that a guard's chain has dropped, in one of our namespaces or (empty) the host's.
    pub fn dropped(&self, namespace: &str, chain: &str) -> u64 {
        let inside = if namespace.is_empty() {
            String::new()
        } else {
            format!("ip netns exec {namespace} ")
        };
        let listing = self.run(&format!("{inside}nft list chain inet netd {chain}"));
        let (_, rest) = listing.split_once("counter packets ").unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// From inside a namespace of ours, or (empty) the host's.
    pub fn send_frame(&self, namespace: &str, link: &str, frame: &[u8]) {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let send = "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); \
                    s.bind((sys.argv[1], 0)); s.send(bytes.fromhex(sys.argv[2]))";
        let inside = ["ip", "netns", "exec", namespace];
        let inside = if namespace.is_empty() {
            &[][..]
        } else {
            &inside
        };
        let output = self
            .keeper
            .enter(&[inside, &["python3", "-c", send, link, &hex]].concat());
        assert!(output.status.success(), "{}", text(&output));
    }

    pub fn sandbox(&self) -> File {
        File::open(format!(
            "/proc/{}/root/run/netns/{}",
            self.keeper.0.id(),
            task(self.index)
        ))
        .unwrap()
    }

    pub fn own(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.keeper.0.id())).unwrap()
    }

    pub fn run(&self, command: &str) -> String {
        self.keeper.run(command)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A process that holds namespaces for as long as it is not dropped; it ends with this one, too.
pub struct Keeper(pub Child);

impl Keeper {
    pub fn new(command: &[&str]) -> Self {
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The echo says that the namespaces are there.
        let line = if command.contains(&"sh") { 3 } else { 4 };
        if line == 4 {
            child.stdin.as_mut().unwrap().write_all(b"ok\n\n").unwrap();
        }
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut vec![0; line])
            .unwrap();
        Self(child)
    }

    pub fn enter(&self, command: &[&str]) -> Output {
        let id = self.0.id().to_string();
        Command::new("nsenter")
            .args(["-t", &id, "--net", "--mount"])
            .args(command)
            .output()
            .unwrap()
    }

    pub fn run(&self, command: &str) -> String {
        let output = self.enter(&command.split_whitespace().collect::<Vec<_>>());
        assert!(output.status.success(), "{command}: {}", text(&output));
        text(&output)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn strip_peer(line: &str) -> String {
    let (name, rest) = line.split_once(": ").unwrap_or((line, ""));
    format!("{}: {rest}", name.split('@').next().unwrap_or(name))
}

/// What the kernel numbers by itself, or works out some time later, says nothing of the shape.
pub fn without_states(line: &str) -> String {
    let mut kept = Vec::new();
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "state" | "link-netnsid" | "link-netns" => drop(words.next()),
            word => kept.push(word),
        }
    }
    kept.join(" ")
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub fn write_whole(path: &Path, bytes: &[u8]) {
    let part = path.with_extension("part");
    fs::write(&part, bytes).unwrap();
    fs::rename(part, path).unwrap();
}
