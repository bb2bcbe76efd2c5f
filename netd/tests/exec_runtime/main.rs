//! The `exec` runtime on this kernel, with the real binary. Needs root.
#![allow(clippy::unwrap_used)]

mod isolation;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use agent::{Exec, Executor, Input, Output, Source, Start, Until};
use futures::{Stream, StreamExt, stream};
use model::{
    DriverConfig, EndpointConfig, EndpointId, Failure, HealthCheck, Kind, Mac, NetworkConfig,
    NetworkId, NodeConfig, NodeId, Runtime, ServiceId, SubnetLease, TaskConfig, TaskId, TaskReport,
    TaskSpec, TaskState, ViewDelta, Vni, names,
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

const NETD: &str = env!("CARGO_BIN_EXE_netd");
const PATIENCE: Duration = Duration::from_secs(20);
/// Tells the test binary to be an agent, and nothing else, until it is killed.
const AGENT_DIRECTORY: &str = "NETD_TEST_AGENT_DIRECTORY";
const AGENT_VIEW: &str = "NETD_TEST_AGENT_VIEW";

/// A host with one task's sandbox.
struct Host {
    place: tempfile::TempDir,
    id: TaskId,
    config: NodeConfig,
    agent: Option<Running>,
}

struct Running {
    desired: watch::Sender<Arc<NodeConfig>>,
    _ready: watch::Sender<agent::Sandboxes>,
    reports: watch::Receiver<Vec<TaskReport>>,
    handle: JoinHandle<()>,
}

impl Host {
    fn new(argv: &[&str]) -> Self {
        let id = TaskId(rand::random());
        ip(&["netns", "add", &names::sandbox_namespace(id)]);
        let mut config = NodeConfig {
            generation: 1,
            ..NodeConfig::empty(NodeId(1))
        };
        config.networks.insert(NetworkId(1), network());
        config.endpoints.insert(EndpointId(1), endpoint(id));
        config.tasks.insert(id, task(argv));
        Self {
            place: tempfile::tempdir().unwrap(),
            id,
            config,
            agent: None,
        }
    }

    /// A host with a task that is a shell script.
    fn script(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    fn started(mut self) -> Self {
        self.start_agent();
        self
    }

    fn task(&mut self) -> &mut TaskConfig {
        self.config.tasks.get_mut(&self.id).unwrap()
    }

    fn runtime(&mut self) -> (&mut BTreeMap<String, String>, &mut Option<PathBuf>) {
        let Runtime::Exec { env, rootfs, .. } = &mut self.task().spec.runtime;
        (env, rootfs)
    }

    fn executor(&self) -> Arc<Exec> {
        executor(&self.directory())
    }

    fn directory(&self) -> PathBuf {
        self.place.path().join("tasks")
    }

    fn task_directory(&self) -> PathBuf {
        self.directory().join(self.id.to_string())
    }

    fn start_agent(&mut self) {
        let (desired, wanted) = watch::channel(Arc::new(self.config.clone()));
        let (ready, sandboxes) = watch::channel(ready([self.id]));
        let (said, reports) = watch::channel(Vec::new());
        let handle = agent::spawn(executor(&self.directory()), wanted, sandboxes, said);
        self.agent = Some(Running {
            desired,
            _ready: ready,
            reports,
            handle,
        });
    }

    /// Hands the configuration to the agent again.
    fn publish(&mut self) {
        self.config.generation += 1;
        self.agent
            .as_ref()
            .unwrap()
            .desired
            .send_replace(Arc::new(self.config.clone()));
    }

    async fn report(&mut self, state: TaskState) -> TaskReport {
        let id = self.id;
        let reports = &mut self.agent.as_mut().unwrap().reports;
        let reached = |list: &Vec<TaskReport>| {
            list.iter()
                .any(|report| report.task == id && report.state >= state)
        };
        let list = timeout(PATIENCE, reports.wait_for(reached)).await;
        let list = list
            .unwrap_or_else(|_| panic!("{state} was never reported"))
            .unwrap()
            .clone();
        let report = list.into_iter().find(|report| report.task == id).unwrap();
        assert_eq!(report.state, state, "{}", report.text());
        report
    }

    /// Lines of the task's log, as text.
    async fn log(&self) -> Vec<String> {
        let lines = self.executor().logs(&[self.id], Until::Now, 0);
        lines
            .map(|line| String::from_utf8_lossy(&line.line).into_owned())
            .collect()
            .await
    }

    async fn exec(&self, argv: &[&str]) -> (i32, String) {
        finish(self.exec_with(argv, stream::pending()).await).await
    }

    async fn exec_with(
        &self,
        argv: &[&str],
        input: impl Stream<Item = Input> + Send + 'static,
    ) -> stream::BoxStream<'static, Output> {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        let start = Start {
            name: "web.1".to_owned(),
            argv,
            env: vec!["GIVEN=yes".to_owned()],
        };
        self.executor().exec(self.id, start, input.boxed())
    }

    fn init(&self) -> i64 {
        let init: serde_json::Value =
            serde_json::from_slice(&fs::read(self.task_directory().join("init")).unwrap()).unwrap();
        init["pid"].as_i64().unwrap()
    }

    fn cgroup(&self) -> Option<PathBuf> {
        let spec: serde_json::Value =
            serde_json::from_slice(&fs::read(self.task_directory().join("spec.json")).ok()?)
                .ok()?;
        spec["cgroup"].as_str().map(PathBuf::from)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(agent) = &self.agent {
            agent.handle.abort();
        }
        let cgroup = self.cgroup();
        if self.task_directory().join("init").exists() && alive(self.init()) {
            let init = self.init();
            let _ = Command::new("kill")
                .args(["-9", &init.to_string()])
                .status();
            until("the task is dead", || !alive(init));
        }
        let cgroups = [cgroup, counter(&format!("netd-tasks/{}", self.id))];
        for cgroup in cgroups
            .into_iter()
            .flatten()
            .filter(|cgroup| cgroup.exists())
        {
            until("the cgroup is empty", || fs::remove_dir(&cgroup).is_ok());
        }
        // Its output is for nobody: one test has removed the namespace itself.
        let _ = Command::new("ip")
            .args(["netns", "del", &names::sandbox_namespace(self.id)])
            .output();
    }
}

fn executor(directory: &Path) -> Arc<Exec> {
    Arc::new(Exec::with_program(
        directory.to_owned(),
        "h1".to_owned(),
        PathBuf::from(NETD),
    ))
}

fn network() -> NetworkConfig {
    let lease = |subnet: &str, gateway: &str| SubnetLease {
        subnet: subnet.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    };
    NetworkConfig {
        name: "my-net".to_owned(),
        vni: Vni::FIRST,
        driver: DriverConfig::Overlay {
            port: 4789,
            encrypted: false,
        },
        subnets: vec![
            lease("fd00:9::/64", "fd00:9::1"),
            lease("10.0.9.0/24", "10.0.9.1"),
        ],
        internal: false,
        mtu: None,
        reach: Default::default(),
    }
}

fn endpoint(task: TaskId) -> EndpointConfig {
    let addresses: Vec<IpAddr> = vec!["10.0.9.5".parse().unwrap(), "fd00:9::5".parse().unwrap()];
    let mac: Mac = "02:00:00:00:00:01".parse().unwrap();
    EndpointConfig {
        network: NetworkId(1),
        node: NodeId(1),
        sandbox: task.into(),
        addresses,
        mac,
    }
}

fn task(argv: &[&str]) -> TaskConfig {
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    TaskConfig {
        service: ServiceId(1),
        service_name: "web".to_owned(),
        slot: 1,
        spec: TaskSpec::new(Runtime::Exec {
            argv,
            env: BTreeMap::new(),
            rootfs: None,
        }),
        stack: None,
        desired: TaskState::Running,
        state: TaskState::Assigned,
        draining: false,
        endpoints: vec![EndpointId(1)],
    }
}

fn ip(arguments: &[&str]) {
    assert!(
        Command::new("ip")
            .args(arguments)
            .status()
            .unwrap()
            .success(),
        "ip {arguments:?}"
    );
}

/// The cgroup of this name in the hierarchy that counts processes, of version 1 or 2.
fn counter(name: &str) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let of_pids = own
        .lines()
        .find_map(|line| line.split_once(":pids:/").map(|(_, path)| path));
    let (mount, path) = match of_pids {
        Some(path) => ("/sys/fs/cgroup/pids", path),
        None => ("/sys/fs/cgroup", own.trim().strip_prefix("0::/")?),
    };
    Some(Path::new(mount).join(path).join(name))
}

fn alive(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn finish(output: impl Stream<Item = Output>) -> (i32, String) {
    let mut output = std::pin::pin!(output);
    let mut text = Vec::new();
    while let Some(piece) = timeout(PATIENCE, output.next())
        .await
        .expect("the command never ended")
    {
        match piece {
            Output::Stdout(bytes) | Output::Stderr(bytes) => text.extend(bytes),
            Output::Exited(code) => {
                return (code, String::from_utf8_lossy(&text).into_owned());
            }
            Output::Refused(refusal) => return (-1, refusal.in_full()),
        }
    }
    panic!("the stream ended without an exit code");
}

#[tokio::test]
async fn a_task_knows_who_it_is_and_whom_to_ask() {
    let mut host = Host::script("env | sort; cat /etc/resolv.conf /etc/hosts /etc/hostname");
    host.runtime()
        .0
        .insert("COLOUR".to_owned(), "blue".to_owned());
    // Whatever this machine's own resolver looks like.
    let (search, options) = (vec![".".to_owned()], vec!["timeout:2".to_owned()]);
    host.task().spec.dns = model::DnsConfig {
        search,
        options,
        servers: Vec::new(),
    };
    let id = host.id;
    let mut host = host.started();
    host.report(TaskState::Complete).await;
    let log = host.log().await.join("\n");
    let environment = format!(
        "COLOUR=blue\nHOME=/root\nHOSTNAME=web-1\n\
         NETD_ADDRESSES=10.0.9.5 fd00:9::5\nNETD_NODE=h1\nNETD_SERVICE=web\n\
         NETD_SLOT=1\nNETD_TASK=web.1\nNETD_TASK_ID={id}\n\
         PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/netd\nPWD=/\n"
    );
    let files = "nameserver 10.0.9.1\nnameserver fd00:9::1\noptions ndots:0 timeout:2\n\
                 127.0.0.1 localhost\n\
                 ::1 localhost ip6-localhost ip6-loopback\n10.0.9.5 web-1\nfd00:9::5 web-1\nweb-1";
    assert_eq!(log, environment + files);
}

#[tokio::test]
async fn how_a_task_ended_is_told() {
    let cases: [(&[&str], TaskState, Option<i32>, &str); 5] = [
        (&["true"], TaskState::Complete, Some(0), ""),
        (
            &["sh", "-c", "exit 3"],
            TaskState::Failed,
            Some(3),
            "exit code 3",
        ),
        (
            &["sh", "-c", "kill -9 $$"],
            TaskState::Failed,
            Some(137),
            "killed by SIGKILL",
        ),
        (
            &["sh", "-c", "sleep 1000 & exit 4"],
            TaskState::Failed,
            Some(4),
            "exit code 4",
        ),
        (
            &["no-such-program"],
            TaskState::Failed,
            Some(127),
            "cannot run \"no-such-program\": No such file or directory (os error 2)",
        ),
    ];
    for (argv, state, exit_code, message) in cases {
        let mut host = Host::new(argv).started();
        let expected = TaskReport {
            why: (!message.is_empty()).then(|| Failure::new(Kind::Unavailable, message, "")),
            exit_code,
            ..TaskReport::new(host.id, state)
        };
        assert_eq!(host.report(state).await, expected);
    }
}

#[tokio::test]
async fn a_task_that_cannot_be_prepared_is_rejected() {
    let mut host = Host::new(&["true"]);
    *host.runtime().1 = Some("/no/such/root".into());
    let mut host = host.started();
    let report = host.report(TaskState::Rejected).await;
    assert!(
        report
            .text()
            .starts_with("rootfs /no/such/root is not a directory"),
        "{}",
        report.text()
    );

    let mut host = Host::new(&["true"]);
    ip(&["netns", "del", &names::sandbox_namespace(host.id)]);
    host.start_agent();
    let report = host.report(TaskState::Rejected).await;
    assert!(
        report.text().contains("open the task's network namespace"),
        "{}",
        report.text()
    );
}

#[tokio::test]
async fn stopping_asks_first_and_kills_after_the_grace() {
    let mut host =
        Host::script("trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.1; done")
            .started();
    host.report(TaskState::Running).await;
    until_logged(&host, "up").await;
    host.task().desired = TaskState::Shutdown;
    host.publish();
    assert_eq!(host.report(TaskState::Shutdown).await.exit_code, Some(0));
    assert_eq!(host.log().await, ["up", "asked"]);

    let mut host = Host::script("trap '' TERM; echo up; while :; do sleep 0.1; done");
    host.task().spec.stop_grace = 400;
    host.start_agent();
    host.report(TaskState::Running).await;
    until_logged(&host, "up").await;
    host.task().desired = TaskState::Shutdown;
    let asked = Instant::now();
    host.publish();
    assert_eq!(host.report(TaskState::Shutdown).await.exit_code, Some(137));
    assert!(asked.elapsed() >= Duration::from_millis(400));
    assert!(!alive(host.init()));
}

async fn until_logged(host: &Host, wanted: &str) {
    let mut lines = std::pin::pin!(host.executor().logs(&[host.id], Until::Removed, 0));
    let found = async {
        while let Some(line) = lines.next().await {
            if line.line == wanted.as_bytes() {
                return;
            }
        }
        panic!("the log ended without {wanted:?}");
    };
    timeout(PATIENCE, found)
        .await
        .unwrap_or_else(|_| panic!("{wanted:?} was never logged"));
}

#[tokio::test]
async fn a_task_that_never_started_is_shut_down_at_once() {
    let mut host = Host::new(&["true"]);
    host.task().desired = TaskState::Shutdown;
    host.start_agent();
    assert_eq!(host.report(TaskState::Shutdown).await.exit_code, None);
    assert!(!host.task_directory().exists());
}

#[tokio::test]
async fn a_task_lost_with_its_host_has_failed_for_good() {
    let mut host = Host::new(&["true"]);
    host.task().state = TaskState::Running;
    host.start_agent();
    assert!(
        host.report(TaskState::Failed)
            .await
            .text()
            .starts_with("its host restarted")
    );

    let mut host = Host::new(&["sleep", "1000"]).started();
    host.report(TaskState::Running).await;
    let _ = Command::new("kill")
        .args(["-9", &host.init().to_string()])
        .status();
    let report = host.report(TaskState::Failed).await;
    assert_eq!(
        report.text(),
        "its host went down, or its processes were killed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_forgotten_task() {
    let mut host = Host::script("sleep 1000 & sleep 1001").started();
    host.report(TaskState::Running).await;
    let (init, cgroup, directory) = (host.init(), host.cgroup(), host.task_directory());
    assert!(cgroup.as_ref().is_none_or(|cgroup| cgroup.exists()));
    host.config.tasks.clear();
    host.publish();
    until("the directory is removed", || !directory.exists());
    assert!(!alive(init) && cgroup.is_none_or(|cgroup| !cgroup.exists()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(directory.to_str().unwrap()));
}

#[tokio::test]
async fn commands_run_inside_a_task() {
    let mut host = Host::script("echo 5 > /tmp/mine; sleep 1000").started();
    host.report(TaskState::Running).await;
    let seen = host
        .exec(&[
            "sh",
            "-c",
            "cat /tmp/mine; hostname; pwd; echo $NETD_TASK $GIVEN; exit 7",
        ])
        .await;
    assert_eq!(seen, (7, "5\nweb-1\n/\nweb.1 yes\n".to_owned()));
    assert_eq!(host.exec(&["sh", "-c", "kill -TERM $$"]).await.0, 143);
    assert_eq!(host.exec(&["no-such-program"]).await.0, 127);
    let parts = [Input::Bytes(b"hello".to_vec()), Input::Closed];
    let input = stream::iter(parts);
    assert_eq!(
        finish(host.exec_with(&["cat"], input).await).await,
        (0, "hello".to_owned())
    );
}

#[tokio::test]
async fn a_command_ends_when_its_client_goes_away() {
    let mut host = Host::new(&["sleep", "1000"]).started();
    host.report(TaskState::Running).await;
    let mut output = Box::pin(
        host.exec_with(&["sh", "-c", "echo up; sleep 2000"], stream::pending())
            .await,
    );
    assert!(output.next().await.is_some());
    drop(output);
    let deadline = Instant::now() + PATIENCE;
    while host.exec(&["pgrep", "-f", "sleep 2000$"]).await.0 == 0 {
        assert!(Instant::now() < deadline, "the command was never killed");
    }
}

#[tokio::test]
async fn a_command_in_a_task_that_does_not_run_is_refused() {
    let mut host = Host::new(&["true"]).started();
    host.report(TaskState::Complete).await;
    let (code, refusal) = host.exec(&["true"]).await;
    assert_eq!(code, -1);
    assert_eq!(
        refusal,
        "task web.1 does not run on this host\n  next: `swarmctl service ps web` lists its tasks \
         and how they stand"
    );
    assert_eq!(host.executor().find("web.1"), Ok(host.id));
    assert!(host.executor().find("web.2").is_err());
}

#[tokio::test]
async fn logs_keep_streams_apart_and_follow_through_rotation() {
    let script = "echo first; echo second >&2; sleep 0.3; \
                  head -c 12000000 /dev/zero | tr '\\0' x | fold -w 8000; echo; echo last; \
                  sleep 1000";
    let mut host = Host::script(script).started();
    host.report(TaskState::Running).await;
    let lines = host.executor().logs(&[host.id], Until::Removed, 0);
    let last = |line: &agent::LogLine| std::future::ready(line.line != b"last");
    let lines: Vec<_> = timeout(PATIENCE, lines.take_while(last).collect())
        .await
        .unwrap();
    let (stderr, stdout): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line.source == Source::Stderr);
    assert_eq!((stderr.len(), &stderr[0].line[..]), (1, &b"second"[..]));
    assert_eq!(
        (stdout.len(), &stdout[0].line[..]),
        (1 + 1500, &b"first"[..])
    );
    assert!(host.task_directory().join("log.1").exists());
    let tail: Vec<_> = host
        .executor()
        .logs(&[host.id], Until::Now, 1)
        .collect()
        .await;
    assert_eq!((tail.len(), &tail[0].line[..]), (1, &b"last"[..]));

    let rest = host.executor().logs(&[host.id], Until::Removed, 1);
    host.config.tasks.clear();
    host.publish();
    assert_eq!(timeout(PATIENCE, rest.count()).await, Ok(1));
}

/// Not a test by itself: the body of the process that `a_task_outlives_its_agent_and_is_adopted`
/// kills.
#[tokio::test]
async fn agent_process() {
    let (Ok(directory), Ok(view)) = (std::env::var(AGENT_DIRECTORY), std::env::var(AGENT_VIEW))
    else {
        return;
    };
    let view: ViewDelta = serde_json::from_str(&view).unwrap();
    let config = NodeConfig::empty(view.node).apply(&view).unwrap();
    let (_ready, sandboxes) = watch::channel(ready(config.tasks.keys().copied()));
    let (_desired, wanted) = watch::channel(Arc::new(config));
    let (said, _reports) = watch::channel(Vec::new());
    agent::spawn(executor(Path::new(&directory)), wanted, sandboxes, said)
        .await
        .unwrap();
}

fn ready(tasks: impl IntoIterator<Item = TaskId>) -> agent::Sandboxes {
    agent::Sandboxes {
        ready: tasks.into_iter().map(Into::into).collect(),
        ..Default::default()
    }
}

fn agent_process_of(host: &Host) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "agent_process"])
        .env(AGENT_DIRECTORY, host.directory())
        .env(
            AGENT_VIEW,
            serde_json::to_string(&host.config.snapshot()).unwrap(),
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_task_outlives_its_agent_and_is_adopted() {
    let mut host = Host::script(
        "echo $$ >> /tmp/starts; echo up; while ! test -e /tmp/end; do sleep 0.05; done; exit 9",
    );
    let mut first = agent_process_of(&host);
    until("the task runs", || {
        host.task_directory().join("started").exists()
    });
    first.kill().unwrap();
    first.wait().unwrap();
    let init = host.init();
    assert!(alive(init));

    host.start_agent();
    host.report(TaskState::Running).await;
    assert_eq!(host.init(), init);
    assert_eq!(host.exec(&["touch", "/tmp/end"]).await.0, 0);
    assert_eq!(host.report(TaskState::Failed).await.exit_code, Some(9));
    assert_eq!(host.log().await, ["up"]);
}

#[tokio::test]
async fn an_end_that_no_agent_saw_is_learnt_by_the_next() {
    let mut host = Host::script("echo up; sleep 1; exit 9");
    let mut first = agent_process_of(&host);
    until("the task runs", || {
        host.task_directory().join("started").exists()
    });
    first.kill().unwrap();
    first.wait().unwrap();
    until("the task has ended", || {
        host.task_directory().join("end").exists()
    });
    host.start_agent();
    assert_eq!(host.report(TaskState::Failed).await.exit_code, Some(9));
    assert_eq!(host.log().await, ["up"]);
}

#[tokio::test]
async fn a_view_that_is_not_known_yet_leaves_tasks_alone() {
    let mut host = Host::new(&["sleep", "1000"]).started();
    host.report(TaskState::Running).await;
    host.agent.take().unwrap().handle.abort();
    let config = std::mem::replace(&mut host.config, NodeConfig::empty(NodeId(1)));
    host.start_agent();
    host.config = config;
    host.publish();
    host.report(TaskState::Running).await;
}

/// A root directory with a shell and `netd`, made of the host's own files.
fn tiny_root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("bin")).unwrap();
    fs::write(root.path().join("only-here"), "of the rootfs\n").unwrap();
    for program in ["/bin/sh", "/bin/cat", "/bin/ls", "/bin/touch"] {
        let libraries = Command::new("ldd").arg(program).output().unwrap();
        let libraries = String::from_utf8(libraries.stdout).unwrap();
        let paths = libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for path in paths.chain([program]) {
            let target = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(path, target).unwrap();
        }
    }
    root
}

#[tokio::test]
async fn a_users_root_directory_is_writable_and_kept() {
    let root = tiny_root();
    let script = "cat /only-here; ls -d /usr || echo no usr; touch /mine && echo wrote; \
                  cat /etc/resolv.conf; cat /etc/hostname; ls /proc/1/comm";
    let mut host = Host::script(script);
    *host.runtime().1 = Some(root.path().to_owned());
    let mut host = host.started();
    host.report(TaskState::Complete).await;
    let log = host.log().await;
    for expected in [
        "of the rootfs",
        "wrote",
        "nameserver 10.0.9.1",
        "web-1",
        "/proc/1/comm",
    ] {
        assert!(
            log.iter().any(|line| line == expected),
            "{expected}: {log:?}"
        );
    }
    let left: BTreeSet<_> = fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !left.contains(std::ffi::OsStr::new("mine"))
            && !left.contains(std::ffi::OsStr::new("proc")),
        "{left:?}"
    );
}

#[tokio::test]
async fn whoami_tells_who_answers_and_who_asks() {
    let mut host = Host::new(&["netd", "whoami", "--port", "80"]);
    let namespace = names::sandbox_namespace(host.id);
    ip(&["-n", &namespace, "link", "set", "lo", "up"]);
    host.start_agent();
    host.report(TaskState::Running).await;
    for (address, client) in [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")] {
        let url = format!("http://{address}/x");
        let (code, body) = host
            .exec(&[
                "curl",
                "-s",
                "--retry",
                "20",
                "--retry-connrefused",
                "--retry-delay",
                "1",
                &url,
            ])
            .await;
        let expected = format!(
            "task: web.1\nhost: h1\nhostname: web-1\naddresses: \nclient: {client}\npath: /x\n"
        );
        assert_eq!((code, body), (0, expected));
    }
}

/// Waits for a report on the task that this holds for.
async fn heard(host: &mut Host, what: &str, holds: impl Fn(&TaskReport) -> bool) -> TaskReport {
    let id = host.id;
    let reports = &mut host.agent.as_mut().unwrap().reports;
    let of_task = |list: &[TaskReport]| list.iter().find(|report| report.task == id).cloned();
    let list = timeout(
        PATIENCE,
        reports.wait_for(|list| of_task(list).is_some_and(|report| holds(&report))),
    )
    .await;
    of_task(&list.unwrap_or_else(|_| panic!("never: {what}")).unwrap()).unwrap()
}

fn check(argv: &[&str], retries: u32) -> HealthCheck {
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    HealthCheck {
        argv,
        interval: 100,
        timeout: 60_000,
        retries,
        start_period: 600_000,
    }
}

#[tokio::test]
async fn a_task_runs_from_its_first_good_check_until_checks_fail() {
    let mut host = Host::new(&["sleep", "infinity"]);
    let asks = "cat /tmp/well || { echo not well >&2; exit 1; }";
    host.task().spec.health = Some(check(&["sh", "-c", asks], 2));
    host.start_agent();
    host.report(TaskState::Starting).await;
    until("a check can be run", || {
        host.task_directory().join("started").exists()
    });
    assert_eq!(host.exec(&["touch", "/tmp/well"]).await.0, 0);
    host.report(TaskState::Running).await;
    assert_eq!(host.exec(&["rm", "/tmp/well"]).await.0, 0);
    let sick = heard(&mut host, "it is not well", |report| report.unhealthy).await;
    assert!(
        sick.text().starts_with("unhealthy: ") && sick.text().ends_with("not well"),
        "{}",
        sick.text()
    );
    let end = host.report(TaskState::Failed).await;
    assert_eq!((end.text(), end.exit_code), (sick.text(), Some(143)));
}

#[tokio::test]
async fn an_adopted_task_stays_running_whatever_its_check_takes() {
    let mut host = Host::new(&["sleep", "infinity"]).started();
    host.report(TaskState::Running).await;
    host.agent = None;
    host.task().state = TaskState::Running;
    host.task().spec.health = Some(check(&["sleep", "infinity"], 1));
    host.start_agent();
    host.report(TaskState::Running).await;
}

#[tokio::test]
async fn connections_of_a_draining_task_are_counted_and_closed() {
    let mut host = Host::new(&["netd", "whoami", "--port", "80"]);
    let namespace = names::sandbox_namespace(host.id);
    ip(&["-n", &namespace, "link", "set", "lo", "up"]);
    ip(&[
        "-n",
        &namespace,
        "address",
        "add",
        "10.0.9.5/32",
        "dev",
        "lo",
    ]);
    host.start_agent();
    host.report(TaskState::Running).await;
    let hold = "until exec 3<>/dev/tcp/10.0.9.5/80; do sleep .1; done; echo open; cat <&3";
    let mut held = host
        .exec_with(&["bash", "-c", hold], stream::pending())
        .await;
    while !matches!(held.next().await, Some(Output::Stdout(_))) {}
    host.task().draining = true;
    host.publish();
    heard(&mut host, "one connection is left", |report| {
        report.connections == Some(1)
    })
    .await;
    drop(held);
    heard(&mut host, "none is left", |report| {
        report.connections == Some(0)
    })
    .await;

    let _held = host
        .exec_with(&["bash", "-c", hold], stream::pending())
        .await;
    host.task().desired = TaskState::Shutdown;
    host.publish();
    assert_eq!(host.report(TaskState::Shutdown).await.exit_code, Some(0));
}
