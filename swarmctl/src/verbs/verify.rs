//! `network verify` and `ipam check`: compare ledger, views and kernels.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use api::{Difference, Examined, Subject, Verification};
use futures::future::join_all;
use model::{Kind, NetworkId, NodeInfo, NodeStatus, Query, Refusal, ViewInfo};
use serde::Serialize;

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
pub async fn verify(daemon: &Daemon, names: &[String], format: Format) -> Result<u8> {
    let mut networks = BTreeSet::new();
    for name in names {
        networks.extend(
            daemon
                .networks(Query::Network(name.clone()))
                .await?
                .iter()
                .map(|network| network.id),
        );
    }
    let nodes = daemon.nodes(Query::Nodes).await?;
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
pub async fn check_ledger(daemon: &Daemon) -> Result<u8> {
    let findings = daemon.ledger().await?;
    findings
        .iter()
        .try_for_each(|finding| output::print(finding))?;
    if findings.is_empty() {
        output::print("the ledger holds the addresses in use and no others")?;
    }
    Ok(u8::from(!findings.is_empty()))
}

async fn ledger(daemon: &Daemon) -> Result<Vec<Finding>> {
    let next = "report this: no sequence of commands may lead here";
    let finding = |cause| {
        finding(
            "",
            Difference {
                network: None,
                object: "ledger".into(),
                cause,
                next: next.into(),
            },
        )
    };
    Ok(daemon.ledger().await?.into_iter().map(finding).collect())
}

async fn on_node(daemon: &Daemon, node: &NodeInfo) -> Vec<Finding> {
    if node.status == NodeStatus::Down {
        let next = "start the host or its netd, or remove it: `swarmctl node rm`";
        return vec![unseen(
            node,
            "the node is down: its kernel cannot be seen".to_owned(),
            next,
        )];
    }
    match differences(daemon, node).await {
        Ok(differences) => differences
            .into_iter()
            .map(|difference| finding(&node.hostname, difference))
            .collect(),
        Err(error) => match error.downcast_ref::<Refusal>() {
            Some(refusal) => vec![unseen(node, refusal.cause.clone(), &refusal.next)],
            None => vec![unseen(
                node,
                error.to_string(),
                "see netd's log on that node",
            )],
        },
    }
}

async fn differences(daemon: &Daemon, node: &NodeInfo) -> Result<Vec<Difference>> {
    let mut attempts = 1;
    loop {
        let Examined::Kernel(found) = daemon.examine(node.id, Subject::Kernel).await? else {
            return Err(another_version());
        };
        let told = of_view(&daemon.view(node.id).await?, &found);
        if told.is_empty() || attempts == ATTEMPTS {
            return Ok([told, found.differences].concat());
        }
        attempts += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The error for an answer of the wrong kind.
pub fn another_version() -> anyhow::Error {
    let cause = "the node's answer is of another kind than the question";
    Refusal::new(
        Kind::Invalid,
        cause,
        "run the same version of netd everywhere",
    )
    .into()
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
                    that node"
            .to_owned();
        Difference {
            network: None,
            object: key.clone(),
            cause,
            next,
        }
    };
    differing.map(difference).collect()
}

fn unseen(node: &NodeInfo, cause: String, next: &str) -> Finding {
    finding(
        &node.hostname,
        Difference {
            network: None,
            object: "node".to_owned(),
            cause,
            next: next.to_owned(),
        },
    )
}

fn finding(node: &str, difference: Difference) -> Finding {
    Finding {
        node: node.to_owned(),
        difference,
    }
}

/// Paragraphs, not a table: a table would cut causes and next steps.
fn print(findings: &[Finding], format: Format) -> Result<()> {
    if format == Format::Json {
        return List::of(findings).print(format);
    }
    findings
        .iter()
        .try_for_each(|Finding { node, difference }| {
            let place = [node.as_str(), &difference.object].join(" ");
            let (cause, next) = (
                output::flat(&difference.cause),
                output::flat(&difference.next),
            );
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
            .map(|difference| difference.object.as_str())
            .collect();
        assert_eq!(objects, ["endpoint/2", "peer/1", "task/1"]);
        let same = Verification {
            view: view(8, &[("endpoint/1", "a")]),
            differences: vec![],
        };
        assert!(of_view(&view(9, &[("endpoint/1", "a")]), &same).is_empty());
    }
}
