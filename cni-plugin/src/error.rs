//! Errors of the protocol (CNI specification 1.1, section "Error"): their codes, and their JSON.

use std::fmt;

use model::{Kind, Refusal};
use serde_json::{Value, json};

/// What kind of error it is. Those from 100 are the plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The configuration's version is not supported, or lacks the operation.
    Version = 1,
    /// A field that is not supported.
    Unsupported = 2,
    /// An environment variable is missing or invalid.
    Environment = 4,
    /// Standard input or output fails.
    Io = 5,
    /// The input is not the expected JSON.
    Decoding = 6,
    /// The configuration is invalid.
    Configuration = 7,
    /// The network namespace does not exist, or is the host's own.
    Namespace = 8,
    /// Try again later.
    Later = 11,
    /// STATUS: `ADD` would fail.
    Unavailable = 50,
    /// STATUS: ADD would fail, and running containers are limited, too (no DNS).
    Degraded = 51,
    /// Conflict with an existing object.
    Conflict = 100,
    /// No free address.
    Exhausted = 101,
    /// The cluster's state forbids it for now.
    Precondition = 102,
    /// This host is not allowed to.
    Denied = 103,
}

/// Why an operation failed, for the runtime and its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniError {
    /// Its kind.
    pub code: Code,
    /// The cause, naming the object.
    pub cause: String,
    /// What to do about it.
    pub next: String,
}

impl CniError {
    /// An error of this kind.
    pub(crate) fn new(code: Code, cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            code,
            cause: cause.into(),
            next: next.into(),
        }
    }

    /// What is printed on standard output.
    pub(crate) fn json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code as u32, "msg": self.cause,
            "details": self.next })
    }

    /// The same error with a code that STATUS may return.
    pub(crate) fn of_status(self) -> Self {
        let code = match self.code {
            Code::Version | Code::Environment | Code::Io | Code::Decoding | Code::Configuration => {
                self.code
            }
            Code::Degraded => Code::Degraded,
            _ => Code::Unavailable,
        };
        Self { code, ..self }
    }
}

impl From<Refusal> for CniError {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind {
            Kind::Invalid | Kind::NotFound => Code::Configuration,
            Kind::Conflict => Code::Conflict,
            Kind::Exhausted => Code::Exhausted,
            Kind::Precondition => Code::Precondition,
            Kind::Denied => Code::Denied,
            Kind::Unavailable => Code::Later,
        };
        Self::new(code, refusal.cause, refusal.next)
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (code {})", self.cause, self.code as u32)
    }
}
