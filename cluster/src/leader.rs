//! Where the leader is, as far as a member can find out, and what is tried there until it succeeds.

use std::time::Duration;

use api::{
    decode,
    proto::{Json, membership_client::MembershipClient},
};
use futures::{StreamExt, stream::FuturesUnordered};
use model::{Kind, Refusal, Role, StateMachine};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status};

use crate::{
    Leadership, Member,
    link::Target,
    raft::{Retry, Seat},
};

/// How long a request is retried while there is no leader.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Timeout of asking a manager who leads.
const ASK_TIMEOUT: Duration = Duration::from_millis(1500);
/// How often a request under way asks whether its leader still leads.
const LOOK_FOR_LEADER: Duration = Duration::from_millis(25);
/// The same for a worker, which asks the managers.
const ASK_FOR_LEADER: Duration = Duration::from_millis(250);
/// Pause between two tries.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(25);

impl<S: StateMachine> Member<S> {
    /// Tries at whoever leads until it succeeds or patience ends.
    pub(crate) async fn at_leader<T, F>(&self, attempt: impl Fn(Seat) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Retry>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut reason = "no manager knows who leads".to_owned();
        while Instant::now() < deadline {
            match self.seat().await {
                Ok(seat) => match timeout_at(deadline, self.while_at(seat, attempt(seat))).await {
                    Ok(Ok(value)) => return Ok(value),
                    Ok(Err(Retry(cause))) => reason = cause,
                    Err(_) => "the leader did not answer in time".clone_into(&mut reason),
                },
                Err(Vacancy::Stranger(cause)) => return Err(stranger(cause)),
                Err(Vacancy::Unknown) => {}
            }
            sleep(RETRY_PAUSE).await;
        }
        let silent = self.silent().await;
        Err(no_answer(if silent.is_empty() { &reason } else { &silent }))
    }

    /// Gives up what is under way at a leader once another one is known. A host that lost its power
    /// leaves connections that end seconds later.
    async fn while_at<T>(
        &self,
        seat: Seat,
        attempt: impl Future<Output = Result<T, Retry>>,
    ) -> Result<T, Retry> {
        tokio::select! {
            done = attempt => done,
            () = self.leader_leaves(seat) => Err(Retry("the leader has changed".to_owned())),
        }
    }

    /// Completes once somebody else leads.
    pub(crate) async fn leader_leaves(&self, seat: Seat) {
        let pause = match self.consensus() {
            Some(_) => LOOK_FOR_LEADER,
            None => ASK_FOR_LEADER,
        };
        loop {
            sleep(pause).await;
            if self.seat().await.is_ok_and(|known| known != seat) {
                return;
            }
        }
    }

    /// Where the leader is, if anybody knows.
    pub(crate) async fn seat(&self) -> Result<Seat, Vacancy> {
        let known = self.consensus();
        if let Some(known) = known.and_then(|consensus| consensus.standing.seat()) {
            return Ok(known);
        }
        let mut answers: FuturesUnordered<_> = self
            .managers()
            .into_iter()
            .map(|target| self.ask(target))
            .collect();
        let mut denials = Vec::new();
        let asked = answers.len();
        while let Some(answer) = answers.next().await {
            match answer.map(|answer| answer.leader) {
                Ok(Some((node, address))) if node != self.node() => {
                    return Ok(Seat::There(node, address));
                }
                Err(status) if status.code() == Code::PermissionDenied => denials.push(status),
                _ => {}
            }
        }
        // One manager alone may only lag behind.
        match denials.pop() {
            Some(status) if denials.len() + 1 == asked => {
                Err(Vacancy::Stranger(status.message().to_owned()))
            }
            _ => Err(Vacancy::Unknown),
        }
    }

    /// What a manager says of who leads.
    pub(crate) async fn ask(&self, manager: Target) -> Result<Leadership, Status> {
        let mut client = MembershipClient::new(self.links().channel(manager));
        let answer = timeout(ASK_TIMEOUT, client.leader(Json::default())).await;
        let answer =
            answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it did not answer in time")));
        let answer = answer.inspect_err(|status| {
            let reason = status.message();
            tracing::debug!(manager = %manager.address, reason, "no answer");
        });
        Ok(decode(answer?.get_ref())?)
    }

    /// Which managers do not answer, for people; empty if all do.
    async fn silent(&self) -> String {
        let managers = self.managers();
        let asked = managers
            .iter()
            .map(|&manager| async move { (manager.address, self.ask(manager).await) });
        let answers = futures::future::join_all(asked).await;
        let silent = answers
            .iter()
            .filter(|(_, answer)| answer.is_err())
            .map(|(address, _)| address.to_string());
        let silent: Vec<String> = silent.collect();
        let all = managers.len() + usize::from(self.role() == Role::Manager);
        if silent.is_empty() {
            return String::new();
        }
        format!(
            "{} of {all} managers do not answer ({})",
            silent.len(),
            silent.join(", ")
        )
    }

    /// The other managers: those of the view, and those of the time of joining while there is none.
    fn managers(&self) -> Vec<Target> {
        let view = self.current_view();
        let managers = view
            .peers
            .iter()
            .filter(|(node, peer)| peer.role == Role::Manager && **node != self.node());
        let known: Vec<Target> = managers
            .map(|(&node, peer)| Target {
                address: peer.address,
                node: Some(node),
            })
            .collect();
        if !known.is_empty() {
            return known;
        }
        let (first, _) = self.told();
        first
            .iter()
            .map(|&address| Target {
                address,
                node: None,
            })
            .collect()
    }
}

/// Why a member knows of no leader.
pub(crate) enum Vacancy {
    /// No manager can say, for now.
    Unknown,
    /// All managers say that this node is not a member; their words.
    Stranger(String),
}

fn stranger(cause: String) -> Refusal {
    let next = "`swarmctl leave` clears this host; then it can join again";
    Refusal::new(Kind::Denied, cause, next)
}

pub(crate) fn no_answer(reason: &str) -> Refusal {
    Refusal::new(
        Kind::Unavailable,
        format!(
            "the cluster has no leader that could be reached within {} s: {reason}",
            PATIENCE.as_secs()
        ),
        "see that netd runs on a majority of the managers and that they reach each other on TCP \
         2377, then try again; a change may be in a leader's log already and be made once there is \
         a majority: look first",
    )
}
