//! The root directory that a task sees: the host's programs and libraries, the host's own root,
//! read-only, or an overlay on a directory of the user's; with /proc, /sys, /dev and the files of
//! /etc that are the task's own. Runs in the task's mount namespace, so all of it goes when the
//! task's last process does.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Component, Path, PathBuf},
};

use model::{Failure, Kind, Runtime};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, makedev, mknod, umask},
    unistd::{chdir, pivot_root},
};

use super::{
    error::{Doing, TaskError},
    spec::{LaunchSpec, PROGRAMS},
};

/// Directories that a task gets fresh instead of the host's; mounts below them are hidden, too.
const ANEW: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp"];
/// Of those, writable and empty, with the bits of their mode.
const EMPTY: [(&str, &str); 3] = [
    ("/run", "mode=755,size=64m"),
    ("/tmp", "mode=1777"),
    ("/var/tmp", "mode=1777"),
];
/// What the minimal root has of the host: programs, libraries, and what these come with.
const SHOWN: [&str; 9] = [
    "/bin", "/gnu", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/sbin", "/usr",
];
/// What programs read below /etc, and nobody keeps secret.
const SHOWN_OF_ETC: [&str; 45] = [
    "alternatives",
    "bash.bashrc",
    "bindresvport.blacklist",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "environment",
    "ethertypes",
    "fonts",
    "gai.conf",
    "group",
    "host.conf",
    "inputrc",
    "iproute2",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld-musl-x86_64.path",
    "locale.alias",
    "locale.conf",
    "localtime",
    "login.defs",
    "magic",
    "mime.types",
    "networks",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "perl",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "profile",
    "profile.d",
    "protocols",
    "python3",
    "redhat-release",
    "rpc",
    "services",
    "shells",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
    "xattr.conf",
];
/// Directories of the minimal root that are empty, with the bits of their mode.
const SKELETON: [(&str, u32); 16] = [
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/mnt", 0o755),
    ("/opt", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/srv", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/var", 0o755),
    ("/var/cache", 0o755),
    ("/var/lib", 0o755),
    ("/var/log", 0o755),
    ("/var/tmp", 0o1777),
];
/// Empty in the host's own root where that was asked for: what the host keeps secret, and what its
/// programs remember, with the sockets by which they are administered.
const SECRET: [&str; 31] = [
    "/boot",
    "/etc/NetworkManager",
    "/etc/cni",
    "/etc/containerd",
    "/etc/docker",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/ipsec.d",
    "/etc/krb5.keytab",
    "/etc/kubernetes",
    "/etc/letsencrypt",
    "/etc/netplan",
    "/etc/pki/tls/private",
    "/etc/ppp",
    "/etc/rancher",
    "/etc/security/opasswd",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/wireguard",
    "/home",
    "/root",
    "/var/backups",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/mail",
    "/var/spool",
];
/// Character devices: name, major, minor (Linux `Documentation/admin-guide/devices.txt`).
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// As large as Docker's.
const SHARED_MEMORY: &str = "mode=1777,size=64m";
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Mounted read-only: root without CAP_SYS_ADMIN could write here and change the host (moby
/// `oci/defaults.go`).
const READ_ONLY: [&str; 5] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
];
/// Masked: would reveal the host's memory, keys, hardware and what its other programs do (same
/// source).
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// How much room there is for the files of /etc that are the task's own.
const OWN_FILES: &str = "mode=755,size=64k,nr_inodes=8";
/// Symbolic links followed in one path, as in the kernel.
const LINKS: usize = 40;

/// Builds the task's root below its directory and makes it the root of this process.
/// `program` is the file of `netd` itself.
pub(crate) fn enter(directory: &Path, spec: &LaunchSpec, program: &Path) -> Result<(), TaskError> {
    make_private()?;
    let root = Root(directory.join("root"));
    fs::create_dir_all(&root.0).doing(|| format!("make {}", root.0.display()))?;
    let word = spec.rootfs.as_deref().filter(|path| Runtime::is_word(path));
    let is = |name: &str| word == Some(Path::new(name));
    match &spec.rootfs {
        None => root.host(&spec.hidden)?,
        Some(_) if is(Runtime::HOST_ROOT) => root.host(&spec.hidden)?,
        Some(_) if is(Runtime::MINIMAL_ROOT) => root.minimal(&spec.hidden)?,
        Some(lower) => root.overlay(directory, lower, &spec.hidden)?,
    }
    let mask = umask(Mode::empty());
    root.devices()?;
    root.kernel_views()?;
    umask(mask);
    root.own_files(directory, spec)?;
    root.program(program)?;
    if is(Runtime::HOST_ROOT) {
        root.cover(&SECRET)?;
    }
    if is(Runtime::MINIMAL_ROOT) {
        read_only(&root.0)?;
    }
    root.pivot()
}

struct Root(PathBuf);

impl Root {
    fn overlay(&self, directory: &Path, lower: &Path, hidden: &Path) -> Result<(), TaskError> {
        if !lower.is_dir() {
            return Err(TaskError::refused(format!(
                "rootfs {} is not a directory of this host",
                lower.display()
            )));
        }
        let real = |path: &Path| {
            path.canonicalize()
                .doing(|| format!("find {}", path.display()))
        };
        let (bottom, keys) = (real(lower)?, real(hidden)?);
        if bottom.starts_with(&keys) || keys.starts_with(&bottom) {
            let what = format!(
                "rootfs {} would show the task this host's keys, in {}",
                lower.display(),
                hidden.display()
            );
            let next = "give a directory apart from it, or none for the host's root";
            return Err(TaskError::Refused(Failure::new(Kind::Denied, what, next)));
        }
        match self.overlay_with(directory, lower) {
            // An overlay's own upper layer cannot lie on an overlay, as in a container: memory
            // then.
            Err(TaskError::Os { reason, .. })
                if reason.raw_os_error() == Some(Errno::EINVAL as i32) =>
            {
                let scratch = directory.join("scratch");
                fs::create_dir_all(&scratch).doing(|| format!("make {}", scratch.display()))?;
                tmpfs(&scratch, "mode=755", MsFlags::MS_NODEV)?;
                self.overlay_with(&scratch, lower)
            }
            result => result,
        }
    }

    fn overlay_with(&self, scratch: &Path, lower: &Path) -> Result<(), TaskError> {
        let (upper, work) = (scratch.join("upper"), scratch.join("work"));
        for layer in [&upper, &work] {
            fs::create_dir_all(layer).doing(|| format!("make {}", layer.display()))?;
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            escape(lower),
            escape(&upper),
            escape(&work)
        );
        // No devices: a task may make device nodes, they must not open.
        mount(
            Some("overlay"),
            &self.0,
            Some("overlay"),
            MsFlags::MS_NODEV | MsFlags::MS_NOSUID,
            Some(options.as_str()),
        )
        .doing(|| {
            format!(
                "mount an overlay on {} (does the kernel have overlayfs?)",
                lower.display()
            )
        })
    }

    fn host(&self, hidden: &Path) -> Result<(), TaskError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .doing(|| "read /proc/self/mountinfo".to_owned())?;
        for point in shown(&mounts, hidden) {
            let target = self.0.join(point.strip_prefix("/").unwrap_or(&point));
            match bind(&point, &target) {
                Ok(()) => read_only(&target)?,
                // Covered by another mount, or unbindable: the directory below is shown, read-only
                // as its parent.
                Err(_) if point != Path::new("/") => {}
                Err(error) => return Err(error),
            }
        }
        self.empty()?;
        // Keys and the cluster's log are not for tasks.
        match self.resolve(hidden).and_then(existing) {
            Ok(target) => tmpfs(&target, "mode=700,size=4k", MsFlags::MS_RDONLY),
            Err(_) => Ok(()),
        }
    }

    fn minimal(&self, hidden: &Path) -> Result<(), TaskError> {
        tmpfs(&self.0, "mode=755,size=1m", MsFlags::MS_NODEV)?;
        for (path, mode) in SKELETON {
            let made = DirBuilder::new().mode(mode).create(self.inside(path));
            made.doing(|| format!("make {path} in the task's root"))?;
        }
        for path in SHOWN {
            self.show(Path::new(path))?;
        }
        for name in SHOWN_OF_ETC {
            self.show(&Path::new("/etc").join(name))?;
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .doing(|| "read /proc/self/mountinfo".to_owned())?;
        let below = |point: &PathBuf| SHOWN.iter().any(|shown| point.starts_with(shown));
        for point in shown(&mounts, hidden).into_iter().filter(below) {
            let target = self.0.join(point.strip_prefix("/").unwrap_or(&point));
            // Those above are there already. Covered by another mount, or unbindable: as in the
            // host's root.
            if !SHOWN.iter().any(|shown| point == Path::new(shown)) && bind(&point, &target).is_ok()
            {
                read_only(&target)?;
            }
        }
        self.empty()
    }

    /// Shows a file, directory or symbolic link of the host, read-only, where the host has it.
    fn show(&self, path: &Path) -> Result<(), TaskError> {
        let Ok(found) = fs::symlink_metadata(path) else {
            return Ok(());
        };
        let target = self.0.join(path.strip_prefix("/").unwrap_or(path));
        let doing = || format!("make {} in the task's root", path.display());
        let parent = target.parent().unwrap_or(&self.0);
        fs::create_dir_all(parent).doing(doing)?;
        if found.is_symlink() {
            return fs::read_link(path)
                .and_then(|leads| symlink(leads, &target))
                .doing(doing);
        }
        if found.is_dir() {
            fs::create_dir(&target).doing(doing)?;
        } else if found.is_file() {
            File::create_new(&target).doing(doing)?;
        } else {
            return Ok(());
        }
        bind(path, &target)?;
        read_only(&target)
    }

    fn empty(&self) -> Result<(), TaskError> {
        for (path, mode) in EMPTY {
            if let Ok(target) = self.resolve(path).and_then(existing) {
                tmpfs(&target, mode, MsFlags::MS_NODEV)?;
            }
        }
        Ok(())
    }

    /// Covers files and directories with empty ones, where they are. Needs the devices.
    fn cover(&self, paths: &[&str]) -> Result<(), TaskError> {
        for path in paths {
            let Ok(target) = self.resolve(path) else {
                continue;
            };
            match fs::symlink_metadata(&target) {
                Ok(found) if found.is_dir() => {
                    tmpfs(&target, "mode=755,size=4k", MsFlags::MS_RDONLY)?;
                }
                Ok(_) => bind(&self.inside("/dev/null"), &target)?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn devices(&self) -> Result<(), TaskError> {
        let dev = self.point("/dev")?;
        tmpfs(&dev, "mode=755,size=64k", MsFlags::MS_NOEXEC)?;
        for (name, major, minor) in DEVICES {
            let path = dev.join(name);
            mknod(
                &path,
                SFlag::S_IFCHR,
                Mode::from_bits_truncate(0o666),
                makedev(major, minor),
            )
            .doing(|| format!("make the device /dev/{name}"))?;
        }
        for (name, target) in DEVICE_LINKS {
            symlink(target, dev.join(name)).doing(|| format!("make /dev/{name}"))?;
        }
        for name in ["pts", "shm"] {
            fs::create_dir(dev.join(name)).doing(|| format!("make /dev/{name}"))?;
        }
        let options = "newinstance,ptmxmode=0666,mode=0620";
        fresh("devpts", &dev.join("pts"), MsFlags::MS_NOEXEC, options)?;
        tmpfs(
            &dev.join("shm"),
            SHARED_MEMORY,
            MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        )?;
        // Device nodes open here, so no more may be made.
        let flags = MsFlags::MS_REMOUNT
            | MsFlags::MS_BIND
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOEXEC
            | MsFlags::MS_NOSUID;
        mount(None::<&str>, &dev, None::<&str>, flags, None::<&str>)
            .doing(|| "make /dev read-only".to_owned())
    }

    fn kernel_views(&self) -> Result<(), TaskError> {
        let guarded = MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        fresh("proc", &self.point("/proc")?, guarded, "")?;
        fresh(
            "sysfs",
            &self.point("/sys")?,
            guarded | MsFlags::MS_RDONLY,
            "",
        )?;
        for path in READ_ONLY {
            if let Ok(target) = existing(self.inside(path)) {
                bind(&target, &target)?;
                read_only(&target)?;
            }
        }
        self.cover(&MASKED)
    }

    fn own_files(&self, directory: &Path, spec: &LaunchSpec) -> Result<(), TaskError> {
        let sources = directory.join("etc");
        fs::create_dir_all(&sources).doing(|| format!("make {}", sources.display()))?;
        // The task may write to them, and is not to fill the disk of the cluster's log so.
        tmpfs(&sources, OWN_FILES, MsFlags::MS_NODEV | MsFlags::MS_NOEXEC)?;
        let hostname = format!("{}\n", spec.hostname);
        for (name, text) in [
            ("resolv.conf", &spec.resolv_conf),
            ("hosts", &spec.hosts),
            ("hostname", &hostname),
        ] {
            let source = sources.join(name);
            fs::write(&source, text).doing(|| format!("write {}", source.display()))?;
            let target = self.resolve(Path::new("/etc").join(name)).and_then(file);
            match target {
                Ok(target) => bind(&source, &target)?,
                // The name is in the kernel anyhow.
                Err(_) if name == "hostname" => {}
                Err(error) => {
                    let cause = format!("no place for the task's own /etc/{name}: {error}");
                    let next = format!("make it on the host, as in `touch /etc/{name}`");
                    let why = Failure::new(Kind::Precondition, cause, next);
                    return Err(TaskError::Refused(why));
                }
            }
        }
        Ok(())
    }

    /// `netd` itself, wherever the host keeps it. Without it, as when its file has been replaced
    /// since it started, the task goes without.
    fn program(&self, program: &Path) -> Result<(), TaskError> {
        let Ok(target) = self
            .resolve(Path::new(PROGRAMS).join("netd"))
            .and_then(file)
        else {
            return Ok(());
        };
        if bind(program, &target).is_ok() {
            read_only(&target)
        } else {
            Ok(())
        }
    }

    fn pivot(&self) -> Result<(), TaskError> {
        let doing = || format!("make {} the task's root", self.0.display());
        chdir(&self.0).doing(doing)?;
        // The old root goes on top of the new one and is taken away at once (pivot_root(2),
        // "pivot_root(".", ".")").
        pivot_root(".", ".").doing(doing)?;
        umount2(".", MntFlags::MNT_DETACH).doing(doing)?;
        chdir("/").doing(doing)
    }

    /// A mount point, made where missing.
    fn point(&self, path: &str) -> Result<PathBuf, TaskError> {
        let target = self
            .resolve(path)
            .doing(|| format!("find {path} in the task's root"))?;
        fs::create_dir_all(&target).doing(|| format!("make {path} in the task's root"))?;
        Ok(target)
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// Where `path` leads inside this root: symbolic links, absolute ones too, never lead out of
    /// it.
    fn resolve(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let mut found = self.0.clone();
        let mut links = 0;
        let mut rest: Vec<PathBuf> = parts(path.as_ref());
        while let Some(part) = rest.pop() {
            if part.as_os_str() == ".." {
                if found != self.0 {
                    found.pop();
                }
                continue;
            }
            match fs::read_link(found.join(&part)) {
                Ok(_) if links == LINKS => return Err(Errno::ELOOP.into()),
                Ok(target) => {
                    links += 1;
                    if target.is_absolute() {
                        found.clone_from(&self.0);
                    }
                    rest.extend(parts(&target));
                }
                Err(_) => found.push(part),
            }
        }
        Ok(found)
    }
}

/// The parts of a path, last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let named = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    named
        .map(|part| PathBuf::from(part.as_os_str()))
        .rev()
        .collect()
}

/// The mount points of the host that a task sees, outer ones first.
fn shown(mounts: &str, hidden: &Path) -> BTreeSet<PathBuf> {
    let points = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape);
    points
        .filter(|point| {
            !point.starts_with(hidden) && !ANEW.iter().any(|anew| point.starts_with(anew))
        })
        .collect()
}

/// mountinfo writes space, tab, newline and backslash as three octal digits
/// (proc_pid_mountinfo(5)).
fn unescape(text: &str) -> PathBuf {
    let replaced = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    replaced
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| {
            text.replace(code, plain)
        })
        .into()
}

/// Overlayfs takes `,` and `:` in a path only behind a backslash.
fn escape(path: &Path) -> String {
    path.display()
        .to_string()
        .replace('\\', "\\\\")
        .replace(',', "\\,")
        .replace(':', "\\:")
}

fn existing(path: PathBuf) -> io::Result<PathBuf> {
    fs::symlink_metadata(&path).map(|_| path)
}

/// A file to bind over, made where it is missing and can be made.
fn file(path: PathBuf) -> io::Result<PathBuf> {
    if !path.exists() {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        File::create_new(&path)?;
    }
    Ok(path)
}

fn bind(source: &Path, target: &Path) -> Result<(), TaskError> {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .doing(|| format!("bind {} to {}", source.display(), target.display()))
}

/// Keeps what is mounted in this mount namespace from now on to itself.
pub(super) fn make_private() -> Result<(), TaskError> {
    let nothing = None::<&str>;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, flags, nothing)
        .doing(|| "keep the task's mounts to itself".to_owned())
}

/// Makes a bind mount read-only. A failure is an error: the mount is never left writable.
pub(super) fn read_only(target: &Path) -> Result<(), TaskError> {
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .doing(|| format!("make {} read-only for the task", target.display()))
}

pub(super) fn tmpfs(target: &Path, options: &str, flags: MsFlags) -> Result<(), TaskError> {
    fresh("tmpfs", target, flags, options)
}

fn fresh(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<(), TaskError> {
    mount(
        Some(kind),
        target,
        Some(kind),
        flags | MsFlags::MS_NOSUID,
        Some(options),
    )
    .doing(|| format!("mount {kind} on {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_never_lead_out_of_the_root() {
        let place = tempfile::tempdir().unwrap();
        let root = Root(place.path().join("root"));
        fs::create_dir_all(root.inside("/etc")).unwrap();
        symlink(
            "../../../run/resolve/stub.conf",
            root.inside("/etc/resolv.conf"),
        )
        .unwrap();
        symlink("/etc/other", root.inside("/etc/hosts")).unwrap();
        symlink("loop", root.inside("/etc/loop")).unwrap();
        assert_eq!(
            root.resolve("/etc/resolv.conf").unwrap(),
            root.inside("/run/resolve/stub.conf")
        );
        assert_eq!(
            root.resolve("/etc/hosts").unwrap(),
            root.inside("/etc/other")
        );
        assert!(root.resolve("/etc/loop").is_err());
    }

    #[test]
    fn directories_made_for_a_task_are_not_the_hosts() {
        let mounts = "22 1 0:1 / /proc rw - proc proc rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n\
                      28 1 0:3 / /mnt/two\\040words ro - ext4 /dev/vdb ro\n\
                      29 1 0:4 net:[1] /run/netns/x rw - nsfs nsfs rw\n\
                      30 1 0:5 / /var/lib/netd/tasks/a/root rw - overlay overlay rw\n";
        let expected = BTreeSet::from(["/".into(), "/mnt/two words".into()]);
        assert_eq!(shown(mounts, Path::new("/var/lib/netd")), expected);
    }
}
