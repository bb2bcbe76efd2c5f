//! As `mixed`, with an engine of every generation: each on a host of its own.

mod everybody;

use everybody::Engine;
use tests::{Lab, docker::Generation};

#[test]
fn containers_of_three_engines_tasks_and_pods_are_alike() {
    let lab = Lab::up(3);
    let engines = [
        Engine::of(Generation::Bookworm, &lab, "h1"),
        Engine::of(Generation::Trixie, &lab, "h2"),
        Engine::of(Generation::Sid, &lab, "h3"),
    ];
    let overlay = "network create --attachable --subnet 10.0.9.0/24 --subnet fd00:9::/64 over";
    let lan = "network create --attachable --driver macvlan --opt parent=eth0 --subnet \
               198.18.0.0/24 --subnet fd00:18::/64 lan";
    for create in [overlay, lan] {
        everybody::reaches_everybody(&lab, &engines, create);
    }
}
