//! What could not be done, in words for people.

use std::io;

use ipvs::BalancerError;
use model::Kind;

use super::super::{AGAIN, Failure, Plane, kernel_said, kind_of, state::Place, status::Held};

/// A failure in one namespace.
pub(super) fn failure(place: Place, why: model::Failure) -> Failure {
    let held = Held::at(place);
    Failure {
        plane: Plane::Rules(place),
        sandbox: held.sandbox(),
        network: held.network(),
        why: why.about(format!("nftables of {place}")),
    }
}

/// What an engine or nftables says.
pub(super) fn said(error: impl Into<BalancerError>) -> model::Failure {
    let error = error.into();
    let errno = error.errno();
    let kind = errno.map_or(Kind::Unavailable, kind_of);
    model::Failure::new(kind, error.to_string(), error.next()).with_errno(errno)
}

/// A namespace that cannot be entered.
pub(super) fn not_entered(error: &io::Error) -> model::Failure {
    let why = kernel_said(error, AGAIN);
    let cause = format!("its namespace cannot be entered: {error}");
    model::Failure { cause, ..why }
}
