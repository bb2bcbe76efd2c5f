//! Managers compare their copies of the state. One that differs from a majority takes no part in
//! Raft any more; where there is no majority, all that differ say so.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{decode, encode, proto::raft_client::RaftClient};
use futures::future::join_all;
use model::{Failure, Kind, NodeId, StateMachine};
use tokio::time::{sleep, timeout};

use crate::{
    Halt, Member,
    link::Target,
    raft::{Comparison, Consensus, StateDigest, compare},
};

/// How often.
const INTERVAL: Duration = Duration::from_secs(20);
/// How long a manager may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Runs for as long as the manager does.
pub(crate) async fn run<S: StateMachine>(member: Member<S>, consensus: Arc<Consensus<S>>) {
    loop {
        // At no fixed time, so that managers that start together do not all ask at once.
        sleep(INTERVAL.mul_f64(rand::random::<f64>() + 0.5)).await;
        look(&member, &consensus).await;
    }
}

/// Compares once.
pub(crate) async fn look<S: StateMachine>(member: &Member<S>, consensus: &Consensus<S>) {
    let others = consensus.standing.other_voters();
    let asked = others.iter().map(async |&(node, address)| {
        let node = Some(node);
        let channel = member.links().channel(Target { address, node });
        let mut client = RaftClient::new(channel);
        let answer = timeout(TIMEOUT, client.digests(encode(&()))).await;
        // A version from before does not answer.
        decode::<Vec<StateDigest>>(answer.ok()?.ok()?.get_ref()).ok()
    });
    let answers = join_all(asked).await;
    let nodes = others.iter().map(|(node, _)| *node);
    let known: BTreeMap<NodeId, Vec<StateDigest>> = nodes
        .zip(answers)
        .filter_map(|(node, digests)| Some((node, digests?)))
        .collect();
    let own = consensus.machine.digests();
    match compare(&own, &known, others.len() + 1) {
        Comparison::Same => member.disputes(None),
        Comparison::Others { index, are } => {
            let others = names(&are);
            tracing::warn!(
                index,
                others,
                "managers differ from the majority, which this one is of"
            );
            member.disputes(None);
        }
        Comparison::Disputed { index, with } => member.disputes(Some(disputed(index, &with))),
        Comparison::Differs { index, from } => {
            let from = names(&from);
            let reason = format!("at index {index} its state was not that of managers {from}");
            tracing::error!(
                index,
                from,
                "this manager's state is not that of the others"
            );
            if let Err(error) = consensus.disown(&reason).await {
                tracing::error!(%error, "this manager's log could not be put out of use");
            }
            member.halt(Halt::Differs);
        }
    }
}

fn disputed(index: u64, with: &[NodeId]) -> Failure {
    let cause = format!(
        "at index {index} this manager's state was not that of managers {}, and no majority tells \
         which is right",
        names(with)
    );
    let next = "compare what `swarmctl debug digest` and lists on each of them say; `swarmctl node \
                rm --force` the one that is wrong, and let it join again";
    tracing::error!(cause, next, "managers differ");
    Failure::new(Kind::Conflict, cause, next).about("Raft")
}

fn names(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    names.join(", ")
}
