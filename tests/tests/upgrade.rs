//! Hosts of a lab that run another netd than the lab's.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tests::{Lab, binaries, eventually, holds, run};

/// A netd that is told from others by its last bytes, which no program reads.
struct Netd {
    path: PathBuf,
    mark: &'static str,
}

impl Netd {
    fn marked(lab: &str, mark: &'static str) -> Self {
        let path = std::env::temp_dir().join(format!("netd-{lab}-{mark}"));
        fs::copy(binaries().join("netd"), &path).expect("a copy of netd");
        let mut file = fs::File::options()
            .append(true)
            .open(&path)
            .expect("the copy");
        file.write_all(mark.as_bytes()).expect("a mark at its end");
        Self { path, mark }
    }

    /// A file that may be executed, and cannot.
    fn unusable(lab: &str, mark: &'static str) -> Self {
        let path = std::env::temp_dir().join(format!("netd-{lab}-{mark}"));
        fs::write(&path, mark).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its permissions");
        Self { path, mark }
    }

    fn runs_on(&self, lab: &Lab, host: &str) {
        eventually("the host runs this netd", || {
            let there = lab.running_netd(host)?;
            holds(there.ends_with(self.mark.as_bytes()), (host, self.mark))
        });
    }
}

impl Drop for Netd {
    fn drop(&mut self) {
        fs::remove_file(&self.path).expect("removing the netd");
    }
}

fn ready(lab: &Lab, ask: &str, hosts: usize) {
    eventually("all nodes are ready", || {
        let said = lab.ctl(ask, "node ls");
        holds(said.out.matches(" ready ").count() == hosts, said)
    });
}

#[test]
fn host_keeps_its_netd_through_crash_power_cut_and_upgrade() {
    let id = std::process::id().to_string();
    let (one, two) = (Netd::marked(&id, "-one-"), Netd::marked(&id, "-two-"));
    let lab = Lab::up_with(2, &[("h2", &one.path)]);
    let common = fs::read(binaries().join("netd")).unwrap();
    assert!(
        lab.running_netd("h1").is_ok_and(|there| there == common),
        "h1 runs the netd of the lab"
    );
    one.runs_on(&lab, "h2");

    run(lab.verb("crash").arg("h2")).ok();
    one.runs_on(&lab, "h2");
    run(lab.verb("kill").arg("h2")).ok();
    run(lab.verb("start").arg("h2")).ok();
    one.runs_on(&lab, "h2");

    let pid = lab.exec("h2", &["cat", "/run/netd.pid"]).ok();
    let said = lab.upgrade("h2", &two.path).ok();
    assert!(said.contains("h2 runs"), "{said}");
    assert_ne!(lab.exec("h2", &["cat", "/run/netd.pid"]).ok(), pid);
    two.runs_on(&lab, "h2");
    let in_path = lab.exec("h2", &["sh", "-c", "tail -c 5 $(command -v netd)"]);
    assert_eq!(in_path.ok(), two.mark, "commands on the host find it, too");
    ready(&lab, "h1", 2);
    lab.ctl("h2", "service create --name web -- sleep infinity")
        .ok();
    assert!(
        lab.running_netd("h1").is_ok_and(|there| there == common),
        "h1 still runs the netd of the lab"
    );

    let no_program = Netd::unusable(&id, "-none-");
    let broken = lab.upgrade("h2", &no_program.path).refused();
    assert!(
        broken.contains("netd of h2 does not run") && broken.contains("netd does not start"),
        "{broken}"
    );
    lab.upgrade("h2", &two.path).ok();
    two.runs_on(&lab, "h2");

    run(lab.verb("kill").arg("h2")).ok();
    let said = lab.upgrade("h2", &one.path).ok();
    assert!(said.contains("h2 is off"), "{said}");
    run(lab.verb("start").arg("h2")).ok();
    one.runs_on(&lab, "h2");
    ready(&lab, "h1", 2);
}

#[test]
fn lab_refuses_a_netd_that_is_no_executable_file() {
    let lab = Lab::planned();
    let up = |netd: &str| {
        let mut up = lab.verb("up");
        run(up.args(["--hosts", "1", "--netd", netd])).refused()
    };
    let missing = up("h1=/nowhere/netd");
    assert!(
        missing.contains("/nowhere/netd does not exist") && missing.contains("next: give the path"),
        "{missing}"
    );
    assert!(up("h1=/etc").contains("/etc is no file"));
    assert!(up("h1=/etc/passwd").contains("/etc/passwd is not executable"));
    assert!(up("h2=/bin/true").contains("--netd names h2, and the lab has 1 hosts"));
    let none = lab.upgrade("h1", Path::new("/bin/true")).refused();
    assert!(none.contains("has no host h1"), "{none}");
}
