//! Why something was not done, in a form that people and programs can act on: one type from the
//! kernel's errno up to the command line. Who prints it chooses the form; nobody reads it back
//! from text.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::command::clip;

/// What kind of failure this is.
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
    /// Who has to do it does not answer or cannot do it, for now.
    Unavailable,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Exhausted,
        Self::Precondition,
        Self::Denied,
        Self::Unavailable,
    ];

    /// The exit code of a program that ends with a failure of this kind (docs/errors.md).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Exhausted => 5,
            Self::Precondition => 6,
            Self::Denied => 7,
            Self::Unavailable => 8,
        }
    }

    /// Differences that hosts of the previous version tell of come without a kind.
    fn untold() -> Self {
        Self::Unavailable
    }
}

impl fmt::Display for Kind {
    /// As in JSON.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Kind::Invalid => "invalid",
            Kind::NotFound => "not_found",
            Kind::Conflict => "conflict",
            Kind::Exhausted => "exhausted",
            Kind::Precondition => "precondition",
            Kind::Denied => "denied",
            Kind::Unavailable => "unavailable",
        })
    }
}

/// Why something is not as it was asked for. As text it is its cause; see [`Failure::in_full`] and
/// [`Failure::in_one_line`] for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    /// Its kind, for programs.
    #[serde(default = "Kind::untold")]
    pub kind: Kind,
    /// What it is about, such as `network web`; empty where only the caller knows.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// What is wrong, as a clause that names the object.
    pub cause: String,
    /// What to do about it; empty where there is nothing to do.
    pub next: String,
    /// What the kernel said, where it was the kernel (`errno(3)`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

/// A failed request: nothing was changed. Its cause names the object, too.
pub type Refusal = Failure;

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            kind,
            object: String::new(),
            cause: cause.into(),
            next: next.into(),
            errno: None,
        }
    }

    /// Of a failure that came as text, as before [`crate::Level::TYPED_FAILURES`]: all is cause.
    pub fn untyped(text: impl Into<String>) -> Self {
        Self::new(Kind::untold(), text, "")
    }

    /// No such `what`.
    pub fn not_found(what: &str, name: &str, list: &str) -> Self {
        Self::new(
            Kind::NotFound,
            format!("there is no {what} {name:?}"),
            format!("`{list}` lists what there is"),
        )
    }

    /// Cuts its texts to what a report may have.
    pub(crate) fn clip(&mut self) {
        [&mut self.object, &mut self.cause, &mut self.next]
            .into_iter()
            .for_each(clip);
    }

    /// The same, about this object. What it is about already stays.
    pub fn about(self, object: impl Into<String>) -> Self {
        if self.object.is_empty() {
            let object = object.into();
            return Self { object, ..self };
        }
        self
    }

    /// The same, said by the kernel.
    pub fn with_errno(self, errno: Option<i32>) -> Self {
        Self { errno, ..self }
    }

    /// For people: the cause, and the next step on a line of its own.
    pub fn in_full(&self) -> String {
        match self.next.as_str() {
            "" => self.cause.clone(),
            next => format!("{}\n  next: {next}", self.cause),
        }
    }

    /// For people, in a list of failures of many objects: object, cause and next step on one line.
    pub fn in_one_line(&self) -> String {
        let mut line = String::new();
        if !self.object.is_empty() {
            line = format!("{}: ", self.object);
        }
        line += &self.cause;
        if !self.next.is_empty() {
            line += &format!("; next: {}", self.next);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_read_from_what_earlier_versions_wrote() {
        let old = r#"{"kind":"not_found","cause":"there is no node \"x\"","next":"look"}"#;
        let read: Failure = serde_json::from_str(old).unwrap();
        assert_eq!(
            read,
            Failure::new(Kind::NotFound, "there is no node \"x\"", "look")
        );
        // Nothing is added that an earlier version would not have written.
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
    }

    #[test]
    fn a_kind_is_called_the_same_in_text_and_in_json() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string());
        }
    }

    #[test]
    fn the_first_object_stays_what_a_failure_is_about() {
        let failure = Failure::new(Kind::Conflict, "its name is taken", "choose another");
        let failure = failure.about("network a").about("network b");
        assert_eq!(failure.to_string(), "its name is taken");
        assert_eq!(
            failure.in_full(),
            "its name is taken\n  next: choose another"
        );
        assert_eq!(
            failure.in_one_line(),
            "network a: its name is taken; next: choose another"
        );
        let silent = Failure::new(Kind::Precondition, "it has moved on", "");
        assert_eq!(
            (silent.in_full(), silent.in_one_line()),
            ("it has moved on".to_owned(), "it has moved on".to_owned())
        );
    }
}
