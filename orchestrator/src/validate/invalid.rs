//! The refusal of what is wrong in itself.

use model::{Kind, Refusal};

pub(super) fn invalid(cause: impl Into<String>, next: impl Into<String>) -> Refusal {
    Refusal::new(Kind::Invalid, cause, next)
}
