//! The number of nftables' changes at which a namespace was found to hold something: for as long as
//! it stays the same, nobody else has changed anything there.

use nftables::{Change, NftError, Socket};

/// A number of nftables' changes in one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u32);

impl Moment {
    /// The present one.
    pub(crate) fn now(socket: &mut Socket) -> Result<Self, NftError> {
        nftables::generation(socket).map(Self)
    }

    /// The one behind our own change, if nobody else changes anything meanwhile.
    pub(crate) fn after(self, change: Option<&Change>) -> Self {
        Self(self.0.wrapping_add(u32::from(change.is_some())))
    }

    /// Whether it is the present one. One that cannot be read may be another.
    pub(crate) fn is_now(self, socket: &mut Socket) -> bool {
        Self::now(socket).is_ok_and(|now| now == self)
    }

    /// Takes over a change of something else in the namespace, made at this number.
    pub(crate) fn overlook(&mut self, before: u32) {
        if self.0 == before {
            self.0 = before.wrapping_add(1);
        }
    }

    /// As nftables counts.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}
