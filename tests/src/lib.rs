//! Labs for tests: several hosts on one machine, driven through the command line as a user would.

pub mod attack;
pub mod between;
pub mod cni;
pub mod docker;
pub mod relay;
pub mod vm;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long a condition may take on a busy machine before a test gives up on it. Not a promise
/// about speed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The directory of the binaries under test.
pub fn binaries() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    test.parent()
        .and_then(|deps| deps.parent())
        .expect("target/PROFILE/deps")
        .to_owned()
}

/// A command of ours, found beside the test.
pub fn swarmctl() -> Command {
    let directory = binaries();
    let mut command = Command::new(directory.join("swarmctl"));
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{}:{path}", directory.display()))
        .stdin(Stdio::null());
    command
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// What a command that has ended said.
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }

    /// Standard error of a command that must have been refused: with exit code 1, or one of
    /// swarmctl's (docs/errors.md).
    #[track_caller]
    pub fn refused(self) -> String {
        let (out, err) = (&self.out, &self.err);
        let is_refused = (1..=8).contains(&self.code);
        assert!(is_refused, "{}\nstdout: {out}\nstderr: {err}", self.code);
        self.err
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Said {
    Said::of(command.output().expect("the command starts"))
}

/// Waits for a condition; panics with what was last seen.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    within(PATIENCE, what, look)
}

/// As [`eventually`], for what takes its time by design.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() > patience => {
                panic!("{what}: not within {patience:?}; last seen: {seen}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// `Ok` if the condition holds, what was seen otherwise: for [`eventually`].
pub fn holds(condition: bool, seen: impl std::fmt::Debug) -> Result<(), String> {
    if condition {
        Ok(())
    } else {
        Err(format!("{seen:?}"))
    }
}

/// A lab that is taken down when dropped.
pub struct Lab {
    name: String,
}

impl Lab {
    /// A lab of this many hosts.
    pub fn up(hosts: u32) -> Self {
        Self::up_with(hosts, &[])
    }

    /// A lab of this many hosts, some of which run another netd: pairs of host and path.
    pub fn up_with(hosts: u32, netd: &[(&str, &Path)]) -> Self {
        let lab = Self::planned();
        let mut up = lab.verb("up");
        up.args(["--hosts", &hosts.to_string()]);
        for (host, path) in netd {
            up.arg("--netd").arg(format!("{host}={}", path.display()));
        }
        run(&mut up).ok();
        lab
    }

    /// Gives a host another netd and restarts it with that, as an upgrade of its package does.
    pub fn upgrade(&self, host: &str, netd: &Path) -> Said {
        run(self.verb("upgrade").arg(host).arg("--netd").arg(netd))
    }

    /// The bytes of the program that a host's netd is running; what was seen where none runs, as
    /// just after a crash.
    pub fn running_netd(&self, host: &str) -> Result<Vec<u8>, String> {
        let exe = "exec cat /proc/$(cat /run/netd.pid)/exe";
        let mut command = self.command(host, &["sh", "-c", exe]);
        let output = command.output().expect("the command starts");
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(Said::of(output).err)
        }
    }

    /// A name for a lab that the test brings up itself; taken down all the same.
    pub fn planned() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "t{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        Self { name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `swarmctl lab VERB --name …`, to be completed.
    pub fn verb(&self, verb: &str) -> Command {
        let mut command = swarmctl();
        command.args(["lab", verb, "--name", &self.name]);
        command
    }

    /// A command on a host, to be completed or started.
    pub fn command(&self, host: &str, words: &[&str]) -> Command {
        let mut command = self.verb("exec");
        command.arg(host).arg("--").args(words);
        command
    }

    /// Runs a command on a host.
    pub fn exec(&self, host: &str, words: &[&str]) -> Said {
        run(&mut self.command(host, words))
    }

    /// Runs `swarmctl` on a host; words are split at spaces.
    pub fn ctl(&self, host: &str, line: &str) -> Said {
        let words: Vec<&str> = std::iter::once("swarmctl")
            .chain(line.split_whitespace())
            .collect();
        self.exec(host, &words)
    }

    /// The JSON that `swarmctl … -o json` prints on a host.
    #[track_caller]
    pub fn json(&self, host: &str, line: &str) -> Vec<Value> {
        let text = self.ctl(host, &format!("{line} -o json")).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    }

    /// Runs a command inside a task, asked of a host.
    pub fn inside(&self, host: &str, task: &str, words: &[&str]) -> Said {
        let words: Vec<&str> = ["swarmctl", "exec", task, "--"]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        self.exec(host, &words)
    }

    /// The Ethernet address of a host's router on an overlay, as `network inspect` shows that.
    #[track_caller]
    pub fn router(&self, host: &str, network: &Value) -> String {
        let namespace = format!("netd-{}", network["id"].as_str().expect("the network's id"));
        let line = self
            .exec(
                host,
                &[
                    "ip", "-n", &namespace, "-o", "link", "show", "type", "vxlan",
                ],
            )
            .ok();
        let address = line
            .split_whitespace()
            .skip_while(|word| *word != "link/ether")
            .nth(1);
        address.expect("the tunnel's device").to_owned()
    }

    /// Shows a directory of this machine, wherever it is, to the tasks on the host's root that a
    /// host starts from now on, at `/mnt`: they have a /tmp of their own.
    #[track_caller]
    pub fn show(&self, host: &str, directory: &Path) {
        self.exec(
            host,
            &["mount", "--bind", &directory.display().to_string(), "/mnt"],
        )
        .ok();
    }

    /// The network `my-net`, three replicas of `web` and one `shell`, as in the tour.
    pub fn tour(hosts: u32) -> Self {
        Self::up(hosts).with_tour()
    }

    /// As [`Self::tour`], of managers only.
    pub fn tour_of_managers(hosts: u32) -> Self {
        let lab = Self::planned();
        let hosts = hosts.to_string();
        run(lab
            .verb("up")
            .args(["--hosts", &hosts, "--managers", &hosts]))
        .ok();
        lab.with_tour()
    }

    fn with_tour(self) -> Self {
        let lab = self;
        lab.ctl(
            "h1",
            "network create --driver overlay --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net",
        )
        .ok();
        lab.ctl(
            "h1",
            "service create --name web --replicas 3 --network my-net --runtime exec -- netd whoami \
             --port 80",
        )
        .ok();
        lab.ctl(
            "h1",
            "service create --name shell --network my-net --runtime exec -- sleep infinity",
        )
        .ok();
        lab
    }

    /// The living tasks of a service.
    pub fn running(&self, host: &str, service: &str) -> Vec<Value> {
        let tasks = self.json(host, &format!("service ps {service}"));
        tasks
            .into_iter()
            .filter(|task| task["state"] == "running" && task["desired_state"] == "running")
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let said = run(&mut self.verb("down"));
        if !std::thread::panicking() {
            assert_eq!(said.code, 0, "lab down: {}", said.err);
        }
    }
}

/// A command in the namespace of the lab's switch, which is no host of the cluster, to be
/// completed.
#[track_caller]
pub fn beside(lab: &Lab) -> Command {
    let switch = process(&format!("swarmctl\0lab-switch\0--lab\0{}\0", lab.name()));
    let mut command = Command::new("nsenter");
    command.arg(format!(
        "--net=/proc/{}/ns/net",
        switch.expect("the switch of the lab")
    ));
    command
}

/// The process id of a host's first process, as seen from here.
#[track_caller]
pub fn first_process(lab: &Lab, host: &str) -> u32 {
    let line = format!(
        "swarmctl\0lab-host\0--lab\0{}\0--host\0{host}\0",
        lab.name()
    );
    process(&line).expect("the first process of a host that is on")
}

/// The first process with this command line.
fn process(line: &str) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_it = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|own| own == line.as_bytes())
    };
    pids.filter(is_it).min()
}

/// Sets a host's port of the lab's switch `up` or `down`: the host runs on, and nobody hears of it.
#[track_caller]
pub fn cable(lab: &Lab, host: &str, state: &str) {
    run(beside(lab).args(["ip", "link", "set", host, state])).ok();
}

/// A hundred calls a second, each on a connection of its own, until told to stop. Every failure is
/// a line. A program of Python; its first argument is whom it calls.
pub const CALL: &str = "import os, socket, sys, time
calls, due = 0, time.monotonic()
while not os.path.exists('/tmp/stop'):
    try:
        with socket.create_connection((sys.argv[1], 80), 5) as s:
            s.sendall(b'GET / HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n')
            assert b'task: web.' in b''.join(iter(lambda: s.recv(9999), b''))
    except Exception as error:
        print('failed', error, flush=True)
    calls, due = calls + 1, due + .01
    time.sleep(max(0, due - time.monotonic()))
print('calls', calls, flush=True)";

/// The value of `key: value` lines, as `netd whoami` prints them.
pub fn field<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        .collect()
}
