//! Refusals: why a request was not executed, for people and programs.

use serde::{Deserialize, Serialize};

/// What kind of refusal this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request itself is wrong, whatever the state.
    Invalid,
    /// The object named does not exist.
    NotFound,
    /// It clashes with something that exists.
    Conflict,
    /// A pool or limit is used up.
    Exhausted,
    /// The state has moved on since the request was made, or forbids it for now.
    Precondition,
    /// The caller may not.
    Denied,
    /// No leader or no way to it, for now.
    Unavailable,
}

/// A refused request: nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{cause}{}", if next.is_empty() { String::new() } else { format!("\n  next: {next}") })]
pub struct Refusal {
    /// Its kind, for programs.
    pub kind: Kind,
    /// What is wrong, naming the object.
    pub cause: String,
    /// What to do about it; empty where there is nothing to do.
    pub next: String,
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(kind: Kind, cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            kind,
            cause: cause.into(),
            next: next.into(),
        }
    }

    /// No such `what`.
    pub fn not_found(what: &str, name: &str, list: &str) -> Self {
        Self::new(
            Kind::NotFound,
            format!("there is no {what} {name:?}"),
            format!("`{list}` lists what there is"),
        )
    }
}
