//! What attaching a container costs: ADD and DEL of our CNI plugin, with an address from a ledger
//! on three managers, against the reference plugins `bridge` and `macvlan` with `host-local`, which
//! ask nobody. In turn in one run on one host of a lab. Prints medians. This program is also what
//! runs on that host. At the end what limits let pass; `limits` alone does only that.

mod limits;

use std::{
    env,
    io::Write,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Lab, cni::REFERENCE, run};

/// Of each plugin.
const CONTAINERS: usize = 100;
const PARALLEL: usize = 8;

fn main() -> Result<()> {
    let words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure"] => measure(),
        ["limits"] => limits::measure(),
        _ => compare().and_then(|()| limits::measure()),
    }
}

fn compare() -> Result<()> {
    let lab = Lab::up(3);
    lab.ctl(
        "h1",
        "network create --attachable --subnet 10.0.0.0/16 --subnet fd00:9::/64 my-net",
    )
    .ok();
    let program = env::current_exe()?.to_string_lossy().into_owned();
    // Somebody else leads on two hosts of three.
    let leader = lab
        .json("h1", "node ls")
        .into_iter()
        .find(|node| node["leader"] == true)
        .context("a leader")?;
    let host = ["h1", "h2"]
        .into_iter()
        .find(|host| leader["hostname"] != *host)
        .context("another host")?;
    lab.exec(host, &["mkdir", "-p", "/run/bench"]).ok();
    print!(
        "{}",
        run(&mut lab.command(host, &[&program, "measure"])).ok()
    );
    Ok(())
}

/// A plugin that is measured.
struct Plugin {
    what: &'static str,
    program: String,
    configuration: String,
}

fn plugins() -> Vec<Plugin> {
    let plugin = |what, kind: &str, more: Value| {
        let mut configuration = json!({ "cniVersion": "1.0.0", "name": kind, "type": kind });
        if let (Some(fields), Value::Object(more)) = (configuration.as_object_mut(), more) {
            fields.extend(more);
        }
        let program = if kind == "netd-cni" {
            kind.to_owned()
        } else {
            format!("{REFERENCE}/{kind}")
        };
        Plugin {
            what,
            program,
            configuration: configuration.to_string(),
        }
    };
    let ipam = |subnets: Value| {
        json!({ "type": "host-local", "dataDir": "/run/bench",
        "ranges": subnets, "routes": [{ "dst": "0.0.0.0/0" }] })
    };
    let dual = |number: u8| {
        ipam(json!([[{ "subnet": format!("10.{number}.0.0/16") }],
                [{ "subnet": format!("fd00:{number}::/64") }]]))
    };
    let bridge = |name, ipam| json!({ "bridge": name, "isGateway": true, "ipam": ipam });
    vec![
        plugin(
            "ours, IPv4 and IPv6",
            "netd-cni",
            json!({ "network": "my-net" }),
        ),
        plugin("bridge, IPv4 and IPv6", "bridge", bridge("br-70", dual(70))),
        plugin(
            "bridge, IPv4",
            "bridge",
            bridge("br-71", ipam(json!([[{ "subnet": "10.71.0.0/16" }]]))),
        ),
        // With IPv6 it waits for DAD: almost two seconds each.
        plugin(
            "macvlan, IPv4",
            "macvlan",
            json!({ "master": "eth0", "ipam": ipam(json!([[{ "subnet": "10.73.0.0/16" }]])) }),
        ),
    ]
}

impl Plugin {
    /// Runs it to its end.
    fn call(&self, verb: &str, namespace: &str) -> Result<Duration> {
        let start = Instant::now();
        let mut child = Command::new(&self.program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", namespace)
            .env("CNI_NETNS", format!("/run/netns/{namespace}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", self.program))?;
        child
            .stdin
            .take()
            .context("a pipe")?
            .write_all(self.configuration.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = || {
            format!(
                "{} {verb} {namespace}: {}",
                self.what,
                String::from_utf8_lossy(&output.stdout)
            )
        };
        ensure!(output.status.success(), said());
        Ok(start.elapsed())
    }
}

/// A namespace that is gone when dropped.
struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Result<Self> {
        ensure!(
            Command::new("ip")
                .args(["netns", "add", &name])
                .status()?
                .success(),
            "ip netns add {name}"
        );
        Ok(Self(name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn measure() -> Result<()> {
    let plugins = plugins();
    // What is made with the first container and removed with the last is no part of what one costs:
    // a bridge stays, too.
    let residents: Result<Vec<Namespace>> = (0..plugins.len())
        .map(|index| Namespace::new(format!("r{index}")))
        .collect();
    let residents = residents?;
    for (plugin, resident) in plugins.iter().zip(&residents) {
        plugin.call("ADD", &resident.0)?;
    }
    let mut rows = vec![Vec::new(); plugins.len()];
    one_by_one(&plugins, &mut rows)?;
    for (plugin, row) in plugins.iter().zip(&mut rows) {
        row.extend(side_by_side(plugin)?);
    }
    println!(
        "| plugin | ADD | ADD, slowest of ten | DEL | {PARALLEL} at once: ADD | DEL | ADD per \
         second |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (plugin, row) in plugins.iter().zip(rows) {
        println!("| {} | {} |", plugin.what, row.join(" | "));
    }
    Ok(())
}

/// In turn, so that a slow minute of the machine hits all alike.
fn one_by_one(plugins: &[Plugin], rows: &mut [Vec<String>]) -> Result<()> {
    let mut times = vec![[Vec::new(), Vec::new()]; plugins.len()];
    for number in 0..CONTAINERS {
        for (index, plugin) in plugins.iter().enumerate() {
            let namespace = Namespace::new(format!("s{index}-{number}"))?;
            times[index][0].push(plugin.call("ADD", &namespace.0)?);
            times[index][1].push(plugin.call("DEL", &namespace.0)?);
        }
    }
    for (row, [mut add, mut del]) in rows.iter_mut().zip(times) {
        row.extend([
            quantile(&mut add, 0.5),
            quantile(&mut add, 0.9),
            quantile(&mut del, 0.5),
        ]);
    }
    Ok(())
}

fn side_by_side(plugin: &Plugin) -> Result<Vec<String>> {
    let namespaces: Result<Vec<Namespace>> = (0..CONTAINERS)
        .map(|number| Namespace::new(format!("p-{number}")))
        .collect();
    let namespaces = namespaces?;
    let start = Instant::now();
    let mut add = all_at_once(plugin, "ADD", &namespaces)?;
    let rate = CONTAINERS as f64 / start.elapsed().as_secs_f64();
    let mut del = all_at_once(plugin, "DEL", &namespaces)?;
    Ok(vec![
        quantile(&mut add, 0.5),
        quantile(&mut del, 0.5),
        format!("{rate:.0}"),
    ])
}

fn all_at_once(plugin: &Plugin, verb: &str, namespaces: &[Namespace]) -> Result<Vec<Duration>> {
    let (left, times) = (Mutex::new(namespaces.iter()), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        loop {
            let next = left.lock().ok().and_then(|mut left| left.next());
            let Some(namespace) = next else { return Ok(()) };
            let time = plugin.call(verb, &namespace.0)?;
            times
                .lock()
                .map(|mut times| times.push(time))
                .ok()
                .context("another failed")?;
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("it panicked"))?)
    })?;
    times.into_inner().ok().context("another failed")
}

fn quantile(times: &mut [Duration], part: f64) -> String {
    times.sort();
    let index = (times.len() as f64 * part) as usize;
    format!("{:.1} ms", times[index].as_secs_f64() * 1000.0)
}
