//! Commands on the keys of encrypted networks.

use serde::{Deserialize, Serialize};

use super::Issuer;

/// Changes the keys of encrypted networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum KeysCommand {
    /// The keys of encrypted networks are replaced: by the user, or by `step` when they are old.
    #[serde(rename = "rotate_keys")]
    Rotate,
    /// By `step`: every host accepts the new keys, or sends with them: the change of keys goes one
    /// step further.
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
