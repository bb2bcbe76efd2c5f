//! Tasks of services, containers of Docker's and containers of a CNI runtime on the same networks:
//! everybody reaches everybody by name and virtual IP, in both families.

mod everybody;

use everybody::Engine;
use tests::{Lab, docker::Generation};

#[test]
fn tasks_containers_and_pods_are_alike_on_overlay_and_lan() {
    let lab = Lab::up(3);
    let engines = [Engine::of(Generation::Bookworm, &lab, "h2")];
    let overlay = "network create --attachable --subnet 10.0.9.0/24 --subnet fd00:9::/64 over";
    let lan = "network create --attachable --driver macvlan --opt parent=eth0 --subnet \
               198.18.0.0/24 --subnet fd00:18::/64 lan";
    for create in [overlay, lan] {
        everybody::reaches_everybody(&lab, &engines, create);
    }
}
