//! What the control plane costs, beside etcd (Debian): three managers and three members of etcd on
//! the same three hosts of a lab and the same disk, asked in turn by the same kind of client.
//! Prints tables for docs/benchmarks.md. Arguments choose the parts: `commits`, `addresses`,
//! `powercut`. This program is also what runs on the hosts.

mod commits;
mod hosts;
mod load;
mod powercut;

use std::{env, fs};

use anyhow::{Result, bail};

/// etcd's messages.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    tonic::include_proto!("etcdserverpb");
}

const PARTS: [&str; 3] = ["commits", "addresses", "powercut"];

fn main() -> Result<()> {
    let words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["load", kind, clients, seconds, pid] => {
            load::run(kind.parse()?, clients.parse()?, seconds.parse()?, pid)
        }
        ["cut", kind, seconds] => powercut::watch(kind.parse()?, seconds.parse()?),
        ["leads"] => load::says_whether_etcd_leads(),
        [] => PARTS.into_iter().try_for_each(part),
        ref parts => parts.iter().copied().try_for_each(part),
    }
}

fn part(name: &str) -> Result<()> {
    println!("\nLoad of the machine before: {}", load_average()?);
    match name {
        "commits" => commits::compare()?,
        "addresses" => commits::addresses()?,
        "powercut" => powercut::compare()?,
        _ => bail!("{name} is none of {}", PARTS.join(", ")),
    }
    println!("\nLoad of the machine after: {}", load_average()?);
    Ok(())
}

fn load_average() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(2).collect::<Vec<_>>().join(", "))
}

/// The middle one of sorted numbers, or the one at another share of them.
fn quantile(numbers: &mut [f64], share: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let at = (numbers.len() as f64 * share) as usize;
    numbers
        .get(at.min(numbers.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    quantile(&mut numbers, 0.5)
}
