//! What every node says of itself.

use api::Look;
use futures::future::join_all;
use model::{Failure, Kind, NodeInfo, NodeStatus};

use crate::{daemon::Daemon, failure};

/// Looks at every node and passes on what is found; says on standard error who does not answer.
/// Returns the exit code.
pub(crate) async fn look<T>(
    daemon: &Daemon,
    nodes: &[NodeInfo],
    look: Look<T>,
    mut take: impl FnMut(&NodeInfo, T),
) -> u8 {
    let mut code = 0;
    for (node, found) in join_all(nodes.iter().map(|node| of_node(daemon, node, &look))).await {
        match found {
            Ok(found) => take(node, found),
            Err(error) => code = failure::tell_of(&node.hostname, error),
        }
    }
    code
}

async fn of_node<'a, T>(
    daemon: &Daemon,
    node: &'a NodeInfo,
    look: &Look<T>,
) -> (&'a NodeInfo, Result<T, Failure>) {
    if node.status == NodeStatus::Down {
        return (node, Err(down()));
    }
    (node, daemon.look(node, look).await)
}

/// Why nothing is seen of a node.
pub(crate) fn down() -> Failure {
    Failure::new(
        Kind::Unavailable,
        "the node is down: its kernel cannot be seen",
        "start the host or its netd, or remove it: `swarmctl node rm`",
    )
}
