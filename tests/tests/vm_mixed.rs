//! As `mixed`, where networks can be encrypted.

mod everybody;

use everybody::Engine;
use tests::{Lab, docker::Generation, vm};

#[test]
fn tasks_containers_and_pods_are_alike_on_an_encrypted_network() {
    vm::required();
    let lab = Lab::up(3);
    let engines = [Engine::of(Generation::Bookworm, &lab, "h2")];
    let create =
        "network create --attachable --encrypted --subnet 10.0.9.0/24 --subnet fd00:9::/64 over";
    everybody::reaches_everybody(&lab, &engines, create);
}
