//! Supported versions of the protocol, and the operations of each.

use serde::Serialize;

use crate::{
    environment::Operation,
    error::{CniError, Code},
};

/// Supported versions, oldest first.
pub(crate) const SUPPORTED: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The newest of them.
pub(crate) const NEWEST: &str = "1.1.0";
/// Version of a configuration that has no `cniVersion`.
const UNSAID: &str = "0.1.0";

/// A supported version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Version {
    V031,
    V040,
    V100,
    V110,
}

impl Version {
    /// Parses a configuration's version. Errors (code 1): not supported, or it lacks the operation.
    pub(crate) fn of(text: Option<&str>, operation: Operation) -> Result<Self, CniError> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or(UNSAID);
        let all = [Self::V031, Self::V040, Self::V100, Self::V110];
        let Some(version) = all.into_iter().find(|version| version.text() == text) else {
            let next = format!("use one of {} as cniVersion", SUPPORTED.join(", "));
            return Err(CniError::new(
                Code::Version,
                format!("incompatible CNI versions: {text:?} is requested"),
                next,
            ));
        };
        let first = match operation {
            Operation::Check => Self::V040,
            Operation::Gc | Operation::Status => Self::V110,
            Operation::Add | Operation::Del | Operation::Version => Self::V031,
        };
        if version < first {
            let cause = format!("config version {text} does not allow {operation:?}");
            return Err(CniError::new(
                Code::Version,
                cause,
                format!("use {} as cniVersion", first.text()),
            ));
        }
        Ok(version)
    }

    /// As it is written.
    pub(crate) fn text(self) -> &'static str {
        SUPPORTED[self as usize]
    }
}
