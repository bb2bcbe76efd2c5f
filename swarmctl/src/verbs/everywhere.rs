//! What every node says of itself.

use anyhow::{Result, anyhow};
use api::{Examined, Subject};
use futures::future::join_all;
use model::{NodeInfo, NodeStatus, Refusal};

use crate::daemon::Daemon;

/// Asks every node and passes on what it finds; says on standard error who does not answer. Returns
/// the exit code.
pub async fn ask(
    daemon: &Daemon,
    nodes: &[NodeInfo],
    subject: Subject,
    mut take: impl FnMut(&NodeInfo, Examined) -> Result<()>,
) -> u8 {
    let mut code = 0;
    for (node, found) in join_all(nodes.iter().map(|node| of_node(daemon, node, subject))).await {
        if let Err(error) = found.and_then(|found| take(node, found)) {
            eprintln!("Error: {}: {error}", node.hostname);
            code = 1;
        }
    }
    code
}

async fn of_node<'a>(
    daemon: &Daemon,
    node: &'a NodeInfo,
    subject: Subject,
) -> (&'a NodeInfo, Result<Examined>) {
    if node.status == NodeStatus::Down {
        return (
            node,
            Err(anyhow!("the node is down: its kernel cannot be seen")),
        );
    }
    let found = daemon.examine(node.id, subject).await;
    // The next step is the same for all of them.
    let cause = |error: anyhow::Error| {
        error
            .downcast::<Refusal>()
            .map_or_else(|error| error, |refusal| anyhow!("{}", refusal.cause))
    };
    (node, found.map_err(cause))
}
