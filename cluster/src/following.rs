//! A watch that follows the leadership: it goes on at the next leader where it stood at the last.

use api::{
    MESSAGE_LIMIT, decode, encode,
    proto::{Json, control_client::ControlClient},
};
use model::{Begin, Kind, Refusal, StateMachine, Watch, Watched, other_version};
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use crate::{
    Member,
    raft::{Retry, Seat},
    watching::{self, Told},
};

impl<S: StateMachine> Member<S> {
    /// Tells of changes, whoever leads: see [`Watch`]. It goes on at the next leader. Errors as for
    /// [`Member::propose`]; and a leader of a version that cannot be watched.
    pub async fn watch(&self, watch: Watch) -> Result<mpsc::Receiver<Told>, Refusal> {
        let first = self.watch_leader(&watch).await?;
        let (down, receiver) = mpsc::channel(1);
        let following = Following {
            member: self.clone(),
            watch,
            down,
        };
        tokio::spawn(following.run(first));
        Ok(receiver)
    }

    async fn watch_leader(&self, watch: &Watch) -> Result<(Seat, Stream), Refusal> {
        self.at_leader(|seat| async move {
            match seat {
                Seat::Here => {
                    let opened = watching::open(self.here()?.clone(), watch.clone()).await?;
                    Ok(opened.map(|told| (seat, Stream::Here(told))))
                }
                Seat::There(node, address) => {
                    let mut leader = ControlClient::new(self.channel_to(node, address))
                        .max_decoding_message_size(MESSAGE_LIMIT);
                    match leader.watch(encode(watch)).await {
                        Ok(told) => Ok(Ok((seat, Stream::There(Box::new(told.into_inner()))))),
                        Err(status) if status.code() == Code::Unimplemented => {
                            Ok(Err(watching::unwatchable()))
                        }
                        Err(status) => Err(Retry(format!("{address}: {}", status.message()))),
                    }
                }
            }
        })
        .await?
    }
}

/// What a leader tells a watch.
enum Stream {
    Here(mpsc::Receiver<Told>),
    There(Box<Streaming<Json>>),
}

impl Stream {
    /// The next word; `None` where this leader says no more.
    async fn next(&mut self) -> Option<Told> {
        match self {
            Self::Here(told) => told.recv().await,
            Self::There(told) => {
                let message = told.message().await.ok()??;
                Some(decode(&message).unwrap_or_else(|_| Err(other_version("the leader"))))
            }
        }
    }
}

/// A watch that goes from leader to leader.
struct Following<S> {
    member: Member<S>,
    watch: Watch,
    down: mpsc::Sender<Told>,
}

impl<S: StateMachine> Following<S> {
    async fn run(mut self, first: (Seat, Stream)) {
        let (mut seat, mut stream) = first;
        loop {
            let told = tokio::select! {
                told = stream.next() => told,
                () = self.member.leader_leaves(seat) => None,
                () = self.down.closed() => return,
            };
            let Some(told) = told else {
                match self.again().await {
                    Ok(next) => (seat, stream) = next,
                    Err(refusal) => return drop(self.down.send(Err(refusal)).await),
                }
                continue;
            };
            match &told {
                Ok(Watched::Begins { revision } | Watched::Changes { revision, .. }) => {
                    self.watch.begin = Begin::After(*revision);
                }
                Ok(Watched::Lost { through, .. }) => self.watch.begin = Begin::After(*through),
                _ => {}
            }
            let is_last = matches!(told, Ok(Watched::Ends) | Err(_));
            if self.down.send(told).await.is_err() || is_last {
                return;
            }
        }
    }

    /// Goes on after the last change that was told. A snapshot that was told in part cannot.
    async fn again(&self) -> Result<(Seat, Stream), Refusal> {
        if self.watch.begin == Begin::Snapshot {
            return Err(Refusal::new(
                Kind::Unavailable,
                "the leader has changed while it told what there is",
                "try again",
            ));
        }
        self.member.watch_leader(&self.watch).await
    }
}
