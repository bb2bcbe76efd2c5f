//! `network verify` and `ipam check`: compare ledger, views and kernels.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use api::{Difference, Look, Verification};
use futures::future::join_all;
use model::{Failure, Kind, NetworkId, NodeInfo, NodeStatus, Question, ViewInfo};
use serde::Serialize;

use super::everywhere;
use crate::{
    daemon::Daemon,
    output::{self, Format, List},
};

/// How often a node is asked again, after a pause: a change that is still on its way to the node is
/// no difference.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// One difference on one node, or in the ledger if there is no node.
#[derive(Debug, Serialize)]
struct Finding {
    node: String,
    #[serde(flatten)]
    difference: Difference,
}

/// Prints how ledger, views and kernels differ. With names, only differences of these networks and
/// those of no network.
pub(crate) async fn verify(daemon: &Daemon, names: &[String], format: Format) -> Result<u8> {
    let mut networks = BTreeSet::new();
    for name in names {
        networks.insert(daemon.ask(Question::network(name)).await?.id);
    }
    let nodes = daemon.ask(Question::nodes()).await?;
    let mut findings = ledger(daemon).await?;
    findings.extend(
        join_all(nodes.iter().map(|node| on_node(daemon, node)))
            .await
            .into_iter()
            .flatten(),
    );
    let concerns = |network: Option<NetworkId>| {
        network.is_none_or(|id| networks.is_empty() || networks.contains(&id))
    };
    findings.retain(|finding| concerns(finding.difference.network));
    if findings.is_empty() && format == Format::Table {
        output::print(&format!(
            "{} nodes: ledger, views and kernels agree",
            nodes.len()
        ))?;
        return Ok(0);
    }
    print(&findings, format)?;
    Ok(u8::from(!findings.is_empty()))
}

/// Prints what is wrong in the ledger.
pub(crate) async fn check_ledger(daemon: &Daemon) -> Result<u8> {
    let findings = daemon.ask(Question::ledger()).await?;
    findings
        .iter()
        .try_for_each(|finding| output::print(finding))?;
    if findings.is_empty() {
        output::print("the ledger holds the addresses in use and no others")?;
    }
    Ok(u8::from(!findings.is_empty()))
}

async fn ledger(daemon: &Daemon) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for cause in daemon.ask(Question::ledger()).await? {
        let next = "report this: no sequence of commands may lead here";
        let failure = Failure::new(Kind::Precondition, cause, next);
        findings.push(finding("", failure.about("ledger")));
    }
    Ok(findings)
}

async fn on_node(daemon: &Daemon, node: &NodeInfo) -> Vec<Finding> {
    if node.status == NodeStatus::Down {
        return vec![unseen(node, everywhere::down())];
    }
    match differences(daemon, node).await {
        Ok(differences) => differences
            .into_iter()
            .map(|difference| Finding {
                node: node.hostname.clone(),
                difference,
            })
            .collect(),
        Err(failure) => vec![unseen(node, failure)],
    }
}

async fn differences(daemon: &Daemon, node: &NodeInfo) -> Result<Vec<Difference>, Failure> {
    let mut attempts = 1;
    loop {
        let found = daemon.look(node, &Look::kernel()).await?;
        let ledger = daemon.ask(Question::view(node.id.to_string())).await?;
        let told = of_view(&ledger, &found);
        if told.is_empty() || attempts == ATTEMPTS {
            return Ok([told, found.differences].concat());
        }
        attempts += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// How a node's view differs from the managers' projection.
fn of_view(ledger: &ViewInfo, found: &Verification) -> Vec<Difference> {
    let (wanted, told) = (&ledger.records, &found.view.records);
    let keys: BTreeSet<&String> = wanted.keys().chain(told.keys()).collect();
    let differing = keys
        .into_iter()
        .filter(|&key| wanted.get(key) != told.get(key));
    let difference = |key: &String| {
        let what = match (wanted.get(key), told.get(key)) {
            (Some(_), Some(_)) => "differs from the ledger's",
            (Some(_), None) => "is missing",
            (None, _) => "is no longer in the ledger",
        };
        let (at, of) = (found.view.generation, ledger.generation);
        let cause =
            format!("in the node's view (log index {at}, ledger at {of}) this record {what}");
        let next = "the node's connection to the managers is broken or slow: read netd's log on \
                    that node";
        Difference {
            network: None,
            failure: Failure::new(Kind::Precondition, cause, next).about(key),
        }
    };
    differing.map(difference).collect()
}

fn unseen(node: &NodeInfo, failure: Failure) -> Finding {
    let object = "node".to_owned();
    finding(&node.hostname, Failure { object, ..failure })
}

/// What belongs to no network.
fn finding(node: &str, failure: Failure) -> Finding {
    let (node, network) = (node.to_owned(), None);
    let difference = Difference { network, failure };
    Finding { node, difference }
}

/// Paragraphs, not a table: a table would cut causes and next steps.
fn print(findings: &[Finding], format: Format) -> Result<()> {
    if format == Format::Json {
        return List::of(findings).print(format);
    }
    findings
        .iter()
        .try_for_each(|Finding { node, difference }| {
            let Failure {
                object,
                cause,
                next,
                ..
            } = &difference.failure;
            let place = [node.as_str(), object].join(" ");
            let (cause, next) = (output::flat(cause), output::flat(next));
            output::print(&format!(
                "{}\n  cause: {cause}\n  next: {next}",
                place.trim_start()
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(generation: u64, records: &[(&str, &str)]) -> ViewInfo {
        let records = records
            .iter()
            .map(|(key, digest)| ((*key).to_owned(), (*digest).to_owned()))
            .collect();
        ViewInfo {
            generation,
            records,
        }
    }

    #[test]
    fn a_node_with_another_view_than_the_ledger_is_found() {
        let ledger = view(
            9,
            &[("endpoint/1", "a"), ("endpoint/2", "b"), ("peer/1", "c")],
        );
        let told = view(
            7,
            &[("endpoint/1", "a"), ("endpoint/2", "x"), ("task/1", "d")],
        );
        let found = of_view(
            &ledger,
            &Verification {
                view: told,
                differences: vec![],
            },
        );
        let objects: Vec<_> = found
            .iter()
            .map(|difference| difference.failure.object.as_str())
            .collect();
        assert_eq!(objects, ["endpoint/2", "peer/1", "task/1"]);
        let same = Verification {
            view: view(8, &[("endpoint/1", "a")]),
            differences: vec![],
        };
        assert!(of_view(&view(9, &[("endpoint/1", "a")]), &same).is_empty());
    }
}
