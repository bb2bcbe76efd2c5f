//! What the capability `bandwidth` lets pass: one transfer over TCP between two hosts for each
//! limit and direction, as a part of the limit.

use anyhow::{Context, Result};
use serde_json::json;
use tests::{
    Lab,
    cni::{Pod, Runtime, addresses, eth0},
};

const BURST: u64 = 1_000_000;
/// How long a transfer takes at its limit, in seconds.
const SECONDS: u64 = 4;
/// What is transferred where there is no limit, in bits.
const WITHOUT: u64 = 4_000_000_000;
const SERVE: &str = "mkdir -p /run/www; cd /run/www; [ -e file ] || truncate -s 500M file; exec \
                     busybox httpd -p 80 -h /run/www";

/// Prints a table.
pub fn measure() -> Result<()> {
    let lab = Lab::up(2);
    lab.ctl(
        "h1",
        "network create --attachable --subnet 10.0.9.0/24 my-net",
    )
    .ok();
    println!("\n| limit | to the container | from the container |");
    println!("|---|---|---|");
    for (number, rate) in [0, 20_000_000, 100_000_000].into_iter().enumerate() {
        let limits = json!({ "ingressRate": rate, "ingressBurst": BURST, "egressRate": rate,
            "egressBurst": BURST });
        let capabilities = if rate > 0 {
            json!({ "bandwidth": limits })
        } else {
            json!({})
        };
        let limited = Runtime::new(&lab, "h1", "my-net").with(capabilities);
        let free = Runtime::new(&lab, "h2", "my-net");
        let id = format!("c{number}");
        let mut of = [&limited, &free].map(|runtime| serving(runtime, eth0(&id)));
        let bits = if rate > 0 { rate * SECONDS } else { WITHOUT };
        let [to, from] = [(&limited, 1), (&free, 0)].map(|(runtime, other)| {
            let whom = std::mem::take(&mut of[other]);
            Ok::<_, anyhow::Error>(cell(per_second(runtime, eth0(&id), &whom, bits)?, rate))
        });
        let limit = if rate > 0 {
            format!("{} Mbit/s", rate / 1_000_000)
        } else {
            "none".to_owned()
        };
        println!("| {limit} | {} | {} |", to?, from?);
    }
    Ok(())
}

/// The address of a container that serves a large file.
fn serving(runtime: &Runtime<'_>, pod: Pod<'_>) -> String {
    let result = runtime.add(pod);
    runtime.inside(pod, &["sh", "-ec", SERVE]).ok();
    addresses(&result).remove(0)
}

/// Bits of content per second, while so many are fetched.
fn per_second(runtime: &Runtime<'_>, pod: Pod<'_>, whom: &str, bits: u64) -> Result<f64> {
    let (range, url) = (format!("0-{}", bits / 8 - 1), format!("http://{whom}/file"));
    let words = [
        "curl",
        "-sS",
        "-r",
        &range,
        "-o",
        "/dev/null",
        "-w",
        "%{size_download} %{time_total}",
        &url,
    ];
    let said = runtime.inside(pod, &words).ok();
    let (size, seconds) = said.split_once(' ').context("two numbers")?;
    Ok(size.parse::<f64>()? * 8.0 / seconds.parse::<f64>()?)
}

fn cell(rate: f64, limit: u64) -> String {
    let part = if limit > 0 {
        format!(", {:.2} of it", rate / limit as f64)
    } else {
        String::new()
    };
    format!("{:.1} Mbit/s{part}", rate / 1e6)
}
