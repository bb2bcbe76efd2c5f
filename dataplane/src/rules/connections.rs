//! Connections that lead where nobody answers any more.

use std::collections::BTreeSet;

use model::{Protocol, names::Namespace};
use nftables::{Connection, NftError, Socket};
use rules::published;

use super::{super::state::Place, Pending};

/// Forgets those without an end that a change leaves behind, and those that began before it and
/// cannot be answered.
pub(super) fn forget(socket: &mut Socket, change: &Pending) -> Result<(), NftError> {
    if !change.closed.is_empty() {
        nftables::forget(socket, |found| is_closed(found, &change.closed))?;
    }
    if !change.opened.is_empty() {
        nftables::forget(socket, |found| is_early(found, &change.opened))?;
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

/// Whether a call of one of these ports came before the rules that lead it: between a flush of
/// somebody's rules and the repair of ours. The kernel translates the first packet of a connection
/// or none, so repetitions would follow it into silence for ever.
fn is_early(found: &Connection, opened: &BTreeSet<(u8, u16)>) -> bool {
    !found.answered && opened.contains(&(found.protocol, found.port))
}
