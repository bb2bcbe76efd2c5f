//! Authorisation of requests from the network: which role may call which method.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use model::StateMachine;
use tonic::{Status, body::Body, codegen::http};
use tower::{Layer, Service};

use crate::{
    Member, PeerIdentity,
    bounds::{Bounds, shortened},
    server::Caller,
    vouching,
};

/// The one request that needs no certificate.
const JOIN: &str = "/netd.v1.Membership/Join";
const RAFT: &str = "/netd.v1.Raft/";

/// Puts the gate in front of a server's routes.
pub(crate) struct GateLayer<S>(pub Member<S>);

impl<S> Clone for GateLayer<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S, N> Layer<N> for GateLayer<S> {
    type Service = Gate<S, N>;

    fn layer(&self, inner: N) -> Gate<S, N> {
        Gate {
            member: self.0.clone(),
            inner,
        }
    }
}

/// Lets requests of members through, with their [`PeerIdentity`].
pub(crate) struct Gate<S, N> {
    member: Member<S>,
    inner: N,
}

impl<S, N: Clone> Clone for Gate<S, N> {
    fn clone(&self) -> Self {
        Self {
            member: self.member.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<S, N> Service<http::Request<Body>> for Gate<S, N>
where
    S: StateMachine,
    N: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    N::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = N::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, N::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), N::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The clone that reported readiness must take the request.
        let clone = self.inner.clone();
        let (member, mut inner) = (
            self.member.clone(),
            std::mem::replace(&mut self.inner, clone),
        );
        Box::pin(async move {
            let caller = request.extensions().get::<Caller>().copied();
            let path = request.uri().path();
            match admit(&member, caller, path).await {
                Ok(identity) => {
                    identity.map(|identity| request.extensions_mut().insert(identity));
                    inner.call(request).await
                }
                Err(status) => {
                    refused(member.bounds(), caller, path, status.message());
                    Ok(status.into_http())
                }
            }
        })
    }
}

fn refused(bounds: &Bounds, caller: Option<Caller>, path: &str, reason: &str) {
    let Some(peer) = caller.map(|caller| caller.address) else {
        return;
    };
    if let Some(left_out) = bounds.may_log(peer) {
        let path = shortened(path);
        tracing::warn!(%peer, path, reason, left_out, "a request was refused");
    }
}

async fn admit<S: StateMachine>(
    member: &Member<S>,
    caller: Option<Caller>,
    path: &str,
) -> Result<Option<PeerIdentity>, Status> {
    let Some(identity) = caller.and_then(|caller| caller.identity) else {
        let refuse = || {
            Status::unauthenticated(
                "a certificate of this cluster is needed; a host gets one by joining",
            )
        };
        return if path == JOIN {
            Ok(None)
        } else {
            Err(refuse())
        };
    };
    if path.starts_with(RAFT) {
        return match vouching::raft_is_for(member, identity).await {
            true => Ok(Some(identity)),
            false => Err(Status::permission_denied(format!(
                "node {} is no manager, or no longer: Raft is not for it",
                identity.node
            ))),
        };
    }
    if !member.knows(identity).await {
        let node = identity.node;
        let cause = format!("node {node} is not, or no longer, part of this cluster");
        return Err(Status::permission_denied(cause));
    }
    Ok(Some(identity))
}
