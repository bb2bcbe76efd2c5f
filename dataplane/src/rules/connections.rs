//! Connections that lead where nobody answers any more.

use std::collections::BTreeSet;

use model::{Protocol, names::Namespace};
use nftables::{Connection, NftError, Socket};
use rules::published;

use super::{super::state::Place, Pending};

/// Forgets those without an end that a change leaves behind.
pub(super) fn forget(socket: &mut Socket, change: &Pending) -> Result<(), NftError> {
    if !change.closed.is_empty() {
        nftables::forget(socket, |found| is_closed(found, &change.closed))?;
    }
    let in_network = matches!(change.place, Place::Inside(Namespace::Network(_)));
    let led = change.wanted.led.clone().unwrap_or_default();
    if in_network && change.rulesets.iter().any(published::is_led_elsewhere) {
        nftables::forget(socket, |found| led.is_stale(found))?;
    }
    Ok(())
}

/// Whether a connection came by one of these ports; TCP ends by itself.
fn is_closed(found: &Connection, closed: &BTreeSet<(u8, u16)>) -> bool {
    found.protocol != Protocol::Tcp.number() && closed.contains(&(found.protocol, found.port))
}
