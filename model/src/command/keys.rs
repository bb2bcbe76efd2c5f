//! Commands on the keys of encrypted networks.

use serde::{Deserialize, Serialize};

use super::Issuer;

/// Changes the keys of encrypted networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum KeysCommand {
    /// Begins a change of the encrypted networks' keys: by the user, or by `step` when keys are
    /// old.
    #[serde(rename = "rotate_keys")]
    Rotate,
    /// By `step`: the next step of a key change, after every host has acknowledged the last one.
    #[serde(rename = "advance_keys")]
    Advance,
}

impl KeysCommand {
    /// What the commands are called in JSON, in the field `kind`.
    pub(super) const KINDS: &[&str] = &["rotate_keys", "advance_keys"];

    pub(super) fn issuer(&self) -> Issuer {
        match self {
            Self::Rotate => Issuer::Person,
            Self::Advance => Issuer::Leader,
        }
    }
}
