//! Text of users that is not what it has to be.

use crate::{Failure, Kind};

/// A value that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}: {next}")]
pub struct ParseError {
    /// What is wrong; names the text.
    pub cause: String,
    /// What to write instead.
    pub next: String,
}

impl ParseError {
    /// An error with this cause.
    pub fn new(cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            next: next.into(),
        }
    }

    /// The text is not `what`, such as `a driver`, of which `form` names the forms or an example.
    pub fn not(text: &str, what: &str, form: &str) -> Self {
        Self::new(format!("{text:?} is not {what}"), format!("write {form}"))
    }

    /// The same, of a part of this place, such as `label netd.port`.
    pub fn within(self, place: &str) -> Self {
        Self {
            cause: format!("{place}: {}", self.cause),
            ..self
        }
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        Self::new(Kind::Invalid, error.cause, error.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parse_error_says_what_to_write() {
        let error = ParseError::not("x", "a role", "worker or manager").within("token");
        let text = "token: \"x\" is not a role: write worker or manager";
        assert_eq!(error.to_string(), text);
        let failure = Failure::from(error);
        assert_eq!(failure.next, "write worker or manager");
    }
}
