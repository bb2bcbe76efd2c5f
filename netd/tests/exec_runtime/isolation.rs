//! What a task is kept from: the host's files, processes, system calls, and netd itself.

use super::*;

#[tokio::test]
async fn a_task_has_namespaces_of_its_own() {
    let mut host = Host::new(&["sleep", "1000"]).started();
    host.report(TaskState::Running).await;
    let (_, said) = host
        .exec(&["sh", "-c", "hostname; cat /proc/1/comm; ls /sys/class/net"])
        .await;
    assert_eq!(said, "web-1\nnetd-init\nlo\n");
    for kind in ["mnt", "pid", "uts", "ipc", "net", "cgroup"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of(&host.init().to_string()), of("self"), "{kind}");
    }
}

#[tokio::test]
async fn the_hosts_root_is_read_only_and_tmp_is_the_tasks_own() {
    let script = "touch /x || echo root kept; touch /etc/x || echo etc kept; \
                  touch /usr/x || echo usr kept; echo 1 > /tmp/x && ls -A /tmp; \
                  echo y > /dev/shm/y && ls -A /dev/shm; ls -A /run/netns; \
                  echo 0 > /proc/sys/kernel/core_uses_pid || echo sysctl kept; \
                  mknod /tmp/sda b 8 0; head -c1 /tmp/sda || echo no device; \
                  mknod /dev/sda b 8 0 || echo dev kept; \
                  mount -o remount,rw / || echo mount refused; \
                  echo x > /dev/null && head -c 2 /dev/zero | wc -c; ls /var/lib/netd; \
                  test -e /proc/1/fd/3 || echo closed";
    let mut host = Host::script(&format!("exec 2>/dev/null; {script}")).started();
    host.report(TaskState::Complete).await;
    let expected = [
        "root kept",
        "etc kept",
        "usr kept",
        "x",
        "y",
        "sysctl kept",
        "no device",
        "dev kept",
        "mount refused",
        "2",
        "closed",
    ];
    assert_eq!(host.log().await, expected);
    assert!(!Path::new("/tmp/x").exists() && !Path::new("/x").exists());
}

#[tokio::test]
async fn the_daemons_own_state_is_hidden_from_tasks() {
    let place = tempfile::tempdir_in("/var/lib").unwrap();
    let mut host = Host::script(&format!(
        "exec 2>&-; ls -A {0}; touch {0}/x || echo kept",
        place.path().display()
    ));
    fs::write(place.path().join("key"), "secret").unwrap();
    host.place = place;
    host.start_agent();
    host.report(TaskState::Complete).await;
    let log = host.log().await;
    assert_eq!(log, ["kept"]);
}

#[tokio::test]
async fn a_task_cannot_administer_the_network_or_the_system() {
    let mut host =
        Host::script("grep -E '^(Cap|NoNewPrivs)' /proc/self/status; sleep 1000").started();
    host.report(TaskState::Running).await;
    let (_, entered) = host
        .exec(&["grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status"])
        .await;
    // Docker's default set: bits 0 1 3 4 5 6 7 8 10 13 18 27 29 31.
    let expected = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\n\
                    CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n\
                    CapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";
    assert_eq!(entered, expected);
    assert_eq!(host.log().await.join("\n") + "\n", expected);
}

/// A listening socket that systemd has passed, say, would let a task answer in netd's place.
#[tokio::test]
async fn descriptors_of_the_daemon_are_closed_to_tasks() {
    let left_open = rustix::io::dup(fs::File::open("/").unwrap()).unwrap();
    let mut host = Host::script("ls /proc/self/fd >/tmp/open; sleep 1000").started();
    host.report(TaskState::Running).await;
    // `ls` reads the directory by one of its own.
    let of_ls = "0\n1\n2\n3\n";
    let seen = host
        .exec(&[
            "sh",
            "-c",
            "while ! [ -s /tmp/open ]; do sleep .1; done; cat /tmp/open",
        ])
        .await;
    assert_eq!(seen, (0, of_ls.to_owned()));
    assert_eq!(
        host.exec(&["ls", "/proc/self/fd"]).await,
        (0, of_ls.to_owned())
    );
    drop(left_open);
}

/// Tries to change what each process that it sees runs, again and again; writes down how that went,
/// by inode. What it would set is what is there.
const CATCH: &str = "
import errno, os
outcomes = {}
def attempt(inode, what, change, *given):
    try:
        change(*given)
        outcome = 'done'
    except OSError as error:
        outcome = errno.errorcode[error.errno]
    outcomes[inode, what] = outcome
def catch(process):
    file = os.open(f'/proc/{process}/exe', os.O_RDONLY)
    found, link = os.fstat(file), f'/proc/self/fd/{file}'
    inode = found.st_ino
    attempt(inode, 'mode', os.fchmod, file, found.st_mode & 0o7777)
    attempt(inode, 'owner', os.fchown, file, found.st_uid, found.st_gid)
    attempt(inode, 'times', os.utime, link, None)
    attempt(inode, 'attribute', os.setxattr, file, 'user.netd', b'')
    attempt(inode, 'content', os.open, link, os.O_WRONLY)
    attempt(inode, 'length', os.truncate, link, found.st_size)
    os.close(file)
with open('/tmp/evil', 'w') as script:
    script.write('#!/proc/self/exe')
os.chmod('/tmp/evil', 0o755)
while True:
    for process in filter(str.isdigit, os.listdir('/proc')):
        try:
            catch(process)
        except OSError:
            continue
    with open('/tmp/caught.new', 'w') as out:
        for (inode, what), outcome in outcomes.items():
            print(inode, what, outcome, file=out)
    os.rename('/tmp/caught.new', '/tmp/caught')
";

/// Who can change the mode, owner or content of the host's program is root there at its next start
/// (CVE-2019-5736): neither what enters a task, nor what a script of the task names as its
/// interpreter, nor the program that tasks are given, leads to that.
#[tokio::test]
async fn no_way_to_the_hosts_netd_lets_a_task_change_it() {
    let own = fs::metadata(NETD).unwrap().ino().to_string();
    let mut host = Host::new(&["python3", "-c", CATCH]).started();
    host.report(TaskState::Running).await;
    let catching = "while ! [ -s /tmp/caught ]; do sleep .1; done";
    assert_eq!(host.exec(&["sh", "-c", catching]).await.0, 0);
    for _ in 0..8 {
        assert_eq!(host.exec(&["true"]).await.0, 0);
        host.exec(&["/tmp/evil"]).await;
        host.exec(&["netd", "whoami", "--no-such-option"]).await;
    }
    let (_, caught) = host.exec(&["cat", "/tmp/caught"]).await;
    let of_netd: Vec<&str> = caught
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("{own} ")))
        .collect();
    assert!(!of_netd.is_empty(), "{caught}");
    for outcome in of_netd {
        let (what, outcome) = outcome.split_once(' ').unwrap();
        // A running program is busy before the mount is asked.
        let refused = outcome == "EROFS" || (what == "content" && outcome == "ETXTBSY");
        assert!(refused, "{what}: {outcome}");
    }
}

/// Makes system calls that are for nobody but the host; says how each ended.
const CALL: &str = "
import ctypes, errno, os, platform, subprocess, threading
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, SIGCHLD, ALG, VSOCK = 0x10000000, 17, 38, 40
numbers = {
    'x86_64': dict(add_key=248, keyctl=250, request_key=249, clone=56, unshare=272, setns=308,
                   userfaultfd=323, socket=41, personality=135),
    'aarch64': dict(add_key=217, keyctl=219, request_key=218, clone=220, unshare=97, setns=268,
                    userfaultfd=282, socket=198, personality=92),
}[platform.machine()] | dict(io_uring_setup=425, open_tree=428, clone3=435)
def call(name, *given):
    result = libc.syscall(numbers[name], *map(ctypes.c_long, given), *[ctypes.c_long(0)] * 4)
    if name == 'clone' and result == 0:
        os._exit(0)
    print(name, 'done' if result >= 0 else errno.errorcode[ctypes.get_errno()])
call('add_key')
call('request_key')
call('keyctl', 0, -3)
call('clone', NEWUSER | SIGCHLD)
call('unshare', NEWUSER)
call('setns', 0)
call('io_uring_setup', 1)
call('userfaultfd')
call('open_tree')
call('socket', ALG, 5)
call('socket', (1 << 32) | VSOCK, 1)
call('personality', 0x0400000)
call('clone3')
thread = threading.Thread(target=lambda: subprocess.run(['true'], check=True))
thread.start()
thread.join()
call('socket', 2, 1)
call('personality', 0xffffffff)
";

/// A task that is root in a user namespace of its own reaches netfilter and much else of the
/// kernel; keys of the host's root are root's.
#[tokio::test]
async fn system_calls_that_are_not_for_tasks_are_refused() {
    let script = format!("{CALL}\nprint(end='', flush=True)\nimport signal\nsignal.pause()");
    let mut host = Host::new(&["python3", "-c", &script]).started();
    host.report(TaskState::Running).await;
    let (code, entered) = host.exec(&["python3", "-c", CALL]).await;
    let expected = "add_key EPERM\nrequest_key EPERM\nkeyctl EPERM\nclone EPERM\nunshare EPERM\n\
                    setns EPERM\nio_uring_setup EPERM\nuserfaultfd EPERM\nopen_tree EPERM\n\
                    socket EPERM\nsocket EPERM\npersonality EPERM\nclone3 ENOSYS\n\
                    socket done\npersonality done\n";
    assert_eq!((code, entered.as_str()), (0, expected));
    let deadline = Instant::now() + PATIENCE;
    while host.log().await.len() < expected.lines().count() {
        assert!(Instant::now() < deadline, "{:?}", host.log().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(host.log().await.join("\n") + "\n", expected);
}

/// Starts threads that stay until no more can be started; says whether there are as many as a task
/// may have.
const START: &str = "
import os, threading
threading.stack_size(1 << 16)
count, end = 0, threading.Event()
try:
    while count < 10000:
        threading.Thread(target=end.wait, daemon=True).start()
        count += 1
except RuntimeError as error:
    print(error, 4000 < count < 4096)
os._exit(0)
";

#[tokio::test]
async fn processes_of_a_task_cannot_use_up_the_hosts() {
    let mut host = Host::new(&["sleep", "1000"]).started();
    host.report(TaskState::Running).await;
    let limited = counter(&format!("netd-tasks/{}", host.id)).unwrap();
    assert_eq!(
        fs::read_to_string(limited.join("pids.max")).unwrap(),
        "4096\n"
    );
    let (_, said) = host.exec(&["python3", "-u", "-c", START]).await;
    assert_eq!(said, "can't start new thread True\n");
}

#[tokio::test]
async fn files_of_the_task_in_etc_cannot_fill_the_hosts_disk() {
    let mut host = Host::new(&["sleep", "1000"]).started();
    host.report(TaskState::Running).await;
    let fill = "for name in hosts hostname resolv.conf; do \
                head -c 1M /dev/zero >>/etc/$name || echo full; done 2>/dev/null; \
                cat /etc/hosts /etc/hostname /etc/resolv.conf | wc -c";
    let (_, said) = host.exec(&["sh", "-c", fill]).await;
    let (refused, written) = said.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(refused, "full\nfull\nfull");
    assert!(written.parse::<u32>().unwrap() <= 64 << 10, "{written}");
}

#[tokio::test]
async fn views_of_the_hosts_hardware_and_memory_are_empty() {
    let look = "for path in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys \
                /proc/kmsg /proc/latency_stats /proc/sched_debug /proc/scsi /proc/timer_list \
                /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware; do \
                if [ -d $path ]; then ls -A $path; elif [ -e $path ]; then cat $path; fi; done";
    let mut host = Host::script(&format!("{look}; echo end")).started();
    host.report(TaskState::Complete).await;
    assert_eq!(host.log().await, ["end"]);
}

#[tokio::test]
async fn the_minimal_root_has_programs_and_nothing_else_of_the_host() {
    let place = tempfile::tempdir_in("/srv").unwrap();
    let _listener = UnixListener::bind(place.path().join("host.sock")).unwrap();
    let script = format!(
        "exec 2>&1; ls -A /home /mnt /opt /root /srv /var/lib /var/log | grep -v '^/\\|^$'; \
         ls -d /etc/shadow /etc/ssh /boot {place} | grep -v cannot; \
         for path in /x /etc/x /usr/x /root/x; do touch $path 2>/dev/null && echo $path; done; \
         stat -c %F /dev/null; \
         echo x >/tmp/x && cat /tmp/x; id -un; hostname -s; grep -c web-1 /etc/hosts; \
         python3 -c 'import json, ssl, sqlite3; print(len(ssl.get_default_verify_paths()))'; \
         netd --version >/dev/null && echo netd",
        place = place.path().display()
    );
    let mut host = Host::script(&script);
    *host.runtime().1 = Some(Runtime::MINIMAL_ROOT.into());
    let mut host = host.started();
    host.report(TaskState::Complete).await;
    let expected = [
        "character special file",
        "x",
        "root",
        "web-1",
        "2",
        "6",
        "netd",
    ];
    let said = host.log().await;
    let said: Vec<&str> = said
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with("ls: cannot access"))
        .collect();
    assert_eq!(said, expected);
}

#[tokio::test]
async fn programs_that_the_minimal_root_has_not_are_named() {
    let mut host = Host::new(&["/srv/no-such-program"]);
    *host.runtime().1 = Some(Runtime::MINIMAL_ROOT.into());
    let mut host = host.started();
    let why = host.report(TaskState::Failed).await.why.unwrap();
    assert!(why.cause.contains("`--rootfs host` shows"), "{why:?}");
}

#[tokio::test]
async fn the_hosts_root_by_name_is_without_its_secrets_and_state() {
    let script = "exec 2>&1; cat /etc/shadow /etc/gshadow; \
                  ls -A /home /root /var/lib /var/log /var/spool /etc/ssh /etc/ssl/private \
                  | grep -v '^/\\|^$'; test -e /etc/debian_version && echo host";
    let mut host = Host::script(script);
    *host.runtime().1 = Some(Runtime::HOST_ROOT.into());
    let mut host = host.started();
    host.report(TaskState::Complete).await;
    let said = host.log().await;
    let said: Vec<&str> = said
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with("ls: cannot access"))
        .collect();
    assert_eq!(said, ["host"]);
}

#[tokio::test]
async fn no_root_directory_shows_a_task_the_keys_of_its_host() {
    for below in ["", "identity"] {
        let mut host = Host::new(&["true"]);
        let root = host.place.path().join(below);
        fs::create_dir_all(&root).unwrap();
        *host.runtime().1 = Some(root);
        let report = host.started().report(TaskState::Rejected).await;
        assert!(
            report
                .text()
                .contains("would show the task this host's keys"),
            "{}",
            report.text()
        );
    }
    let mut host = Host::new(&["true"]);
    *host.runtime().1 = Some("/".into());
    let report = host.started().report(TaskState::Rejected).await;
    assert!(
        report
            .text()
            .contains("would show the task this host's keys"),
        "{}",
        report.text()
    );
}
