//! Versions of the protocol that are spoken, and what each of them knows.

use serde::Serialize;

use crate::{
    environment::Operation,
    error::{CniError, Code},
};

/// What is spoken, oldest first.
pub const SUPPORTED: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The newest of them.
pub const NEWEST: &str = "1.1.0";
/// What a configuration without a version is of.
const UNSAID: &str = "0.1.0";

/// A version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Version {
    V031,
    V040,
    V100,
    V110,
}

impl Version {
    /// That of a configuration. Errors (code 1): it is not spoken, or does not know the operation.
    pub fn of(text: Option<&str>, operation: Operation) -> Result<Self, CniError> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or(UNSAID);
        let all = [Self::V031, Self::V040, Self::V100, Self::V110];
        let Some(version) = all.into_iter().find(|version| version.text() == text) else {
            let next = format!("use one of {} as cniVersion", SUPPORTED.join(", "));
            return Err(CniError::new(
                Code::Version,
                format!("incompatible CNI versions: {text:?} is asked for"),
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
    pub fn text(self) -> &'static str {
        SUPPORTED[self as usize]
    }
}
