//! This host's way to its cluster, for all that asks or changes it from here, and the wait until
//! this host's kernel has what came of it.

use std::{sync::Arc, time::Duration};

use api::Proposal;
use model::{Command, Failure, Kind, NodeConfig, Outcome, Question, Refusal, RequestId, SandboxId};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::daemon::{Daemon, Member};

/// What says more of a host that lacks something.
const LOOK: &str = "`swarmctl network verify` says what this host lacks";

/// How long somebody waits for the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// In all.
    pub ready: Duration,
    /// While the kernel goes on refusing what is waited for.
    pub refused: Duration,
}

/// Changes the cluster, under a request id of its own.
pub(crate) async fn propose(member: &Member, command: Command) -> Result<Outcome, Refusal> {
    let request = RequestId(rand::random());
    member.propose(Proposal { request, command }).await
}

/// Asks the cluster.
pub(crate) async fn ask<T>(member: &Member, question: Question<T>) -> Result<T, Refusal> {
    let answer = member.query(question.query().clone()).await;
    answer
        .and_then(|answer| question.take(answer))
        .map_err(|refusal| refusal.about(question.query().object()))
}

impl Daemon {
    /// This host's part in its cluster. Errors: it is part of none.
    pub fn member(&self) -> Result<Member, Refusal> {
        self.member.borrow().clone().ok_or_else(|| {
            Refusal::new(
                Kind::Precondition,
                format!("host {} is not part of a cluster", self.hostname),
                "create a cluster with `swarmctl init`, or join one with `swarmctl join`",
            )
            .about(format!("host {}", self.hostname))
        })
    }

    /// Waits until this host's kernel has all of a sandbox, which is found in the view once it is
    /// there. The view that has it is returned.
    pub async fn until_ready(
        &self,
        find: impl Fn(&NodeConfig) -> Option<SandboxId>,
        patience: Patience,
    ) -> Result<Arc<NodeConfig>, Refusal> {
        let deadline = Instant::now() + patience.ready;
        let late = |what: &str| {
            let cause = format!("{what} within {} s", patience.ready.as_secs());
            Refusal::new(Kind::Unavailable, cause, LOOK)
        };
        let mut view = self.desired.subscribe();
        let heard = timeout_at(deadline, view.wait_for(|config| find(config).is_some())).await;
        let heard = heard.map_err(|_| late("this host's view does not contain the interface"))?;
        let config = heard.map_err(|_| ends())?.clone();
        let Some(sandbox) = find(&config) else {
            return Err(ends());
        };
        let mut status = self.status_soon(deadline).await?;
        let ready = settled(&mut status, &config, sandbox, patience.refused);
        let waited = timeout_at(deadline, ready).await;
        match waited {
            Ok(settled) => settled.map(|()| config),
            Err(_) => Err(late("the interface is not ready")),
        }
    }

    /// How far the kernel is. Errors: there is no view to make true yet.
    pub fn status(&self) -> Result<watch::Receiver<Arc<dataplane::Status>>, Refusal> {
        let dataplane = self.dataplane.borrow();
        dataplane
            .as_ref()
            .map(|(status, _)| status.clone())
            .ok_or_else(|| self.has_no_view())
    }

    /// The same, once there is one.
    async fn status_soon(
        &self,
        deadline: Instant,
    ) -> Result<watch::Receiver<Arc<dataplane::Status>>, Refusal> {
        let mut dataplane = self.dataplane.subscribe();
        // Where none came, the error says so.
        let _late = timeout_at(deadline, dataplane.wait_for(Option::is_some)).await;
        self.status()
    }
}

fn ends() -> Refusal {
    Refusal::new(Kind::Unavailable, "netd is about to stop", "try again")
}

/// Waits until the kernel has all of the sandbox. Errors: it goes on refusing that.
async fn settled(
    status: &mut watch::Receiver<Arc<dataplane::Status>>,
    config: &NodeConfig,
    sandbox: SandboxId,
    patience: Duration,
) -> Result<(), Refusal> {
    let mut refused_since = None;
    loop {
        let current = status.borrow_and_update().clone();
        let is_current =
            current.node == Some(config.node) && current.generation >= config.generation;
        if is_current && current.ready.contains(&sandbox) {
            return Ok(());
        }
        let failure = current.failure_of(sandbox).filter(|_| is_current);
        let Some(failure) = failure else {
            refused_since = None;
            status.changed().await.map_err(|_| ends())?;
            continue;
        };
        let since = *refused_since.get_or_insert_with(Instant::now);
        match timeout_at(since + patience, status.changed()).await {
            Ok(changed) => changed.map_err(|_| ends())?,
            Err(_) => return Err(refused(failure)),
        }
    }
}

fn refused(failure: &Failure) -> Refusal {
    let Failure { object, cause, .. } = failure;
    let cause = format!("this host cannot attach the container: {object}: {cause}");
    Refusal {
        kind: Kind::Unavailable,
        cause,
        ..failure.clone()
    }
}
