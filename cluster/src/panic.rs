//! Panics of openraft. It has tasks beside its core, whose end nobody notices: a leader would no
//! longer send one follower anything.

use std::{
    panic::{self, PanicHookInfo},
    sync::atomic::{AtomicBool, Ordering},
};

static STRUCK: AtomicBool = AtomicBool::new(false);

/// Notes from now on where openraft panics. For the start of a process.
pub fn note_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        before(info);
        if is_of_raft(info) {
            STRUCK.store(true, Ordering::Relaxed);
        }
    }));
}

fn is_of_raft(info: &PanicHookInfo<'_>) -> bool {
    info.location()
        .is_some_and(|at| at.file().contains("/openraft-"))
}

/// Whether openraft has panicked in this process.
pub(crate) fn has_struck() -> bool {
    STRUCK.load(Ordering::Relaxed)
}
