//! Which members have connections here. Those of a node that is removed end, and with them its
//! sessions, commands and logs under way: requests alone are compared with the members when they
//! come.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use model::StateMachine;
use tokio::{sync::watch, time::sleep};

use crate::{Member, PeerIdentity, vouching};

/// How often a manager looks whether those are members that have connections.
const LOOK: Duration = Duration::from_secs(1);
/// The same for a worker, which may have to ask a manager.
const ASK: Duration = Duration::from_secs(5);

/// By their certificates.
#[derive(Default)]
pub(crate) struct Visitors(Mutex<BTreeMap<PeerIdentity, watch::Sender<bool>>>);

/// One connection.
pub(crate) struct Visit(watch::Receiver<bool>);

impl Visitors {
    /// A member has connected.
    pub(crate) fn enter(&self, peer: PeerIdentity) -> Visit {
        let mut here = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Visit(here.entry(peer).or_default().subscribe())
    }

    fn present(&self) -> Vec<PeerIdentity> {
        let mut here = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        here.retain(|_, visits| visits.receiver_count() > 0);
        here.keys().copied().collect()
    }

    fn show_out(&self, peer: PeerIdentity) {
        let mut here = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(visits) = here.remove(&peer) {
            visits.send_replace(true);
        }
    }
}

impl Visit {
    /// Returns once the peer is no member any more.
    pub(crate) async fn ended(mut self) {
        if self.0.wait_for(|&over| over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs for as long as the member does.
pub(crate) async fn watch<S: StateMachine>(member: Member<S>) {
    let pause = match member.consensus() {
        Some(_) => LOOK,
        None => ASK,
    };
    loop {
        sleep(pause).await;
        for peer in member.visitors().present() {
            if !is_member(&member, peer).await {
                let node = peer.node;
                tracing::info!(%node, "a node is no member any more: its connections end");
                member.visitors().show_out(peer);
            }
        }
    }
}

/// A manager that is catching up knows its leader by Raft only. Where nobody can tell, nothing
/// ends.
async fn is_member<S: StateMachine>(member: &Member<S>, peer: PeerIdentity) -> bool {
    let is_known = member.is_member(peer).await != Some(false);
    is_known || member.consensus().is_some() && vouching::raft_is_for(member, peer).await
}
