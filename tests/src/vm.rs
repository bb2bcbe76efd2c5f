//! The virtual machine of `make test-vm`, whose kernel has ESP, IPVS, 802.1q and ipvlan.

use std::path::Path;

/// There inside of it only: `tests/vm/guest` reads it.
const MARK: &str = "/run/vm/guest";

/// Whether this process runs in it.
pub fn is_here() -> bool {
    Path::new(MARK).exists()
}

/// Refuses to run a test elsewhere: the first line of every test of a file `tests/vm_*.rs`.
#[track_caller]
pub fn required() {
    assert!(
        is_here(),
        "this kernel may lack what the test needs: `make test-vm` runs it in a machine that has it"
    );
}
