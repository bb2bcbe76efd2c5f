//! A storm of changes: four clients make and remove thousands of networks, while the published port
//! of a service is called hundreds of times a second.

use std::{io::Write, process::Stdio};

use tests::{Lab, Said, cni::ended, run};

/// Networks that each of the clients makes and removes.
const NETWORKS: usize = 750;
/// Calls a second.
const RATE: &str = "500";

/// Calls the addresses in turn until its standard input ends; tells how many calls failed.
const CALLS: &str = r#"
import asyncio, sys, time
rate, addresses = float(sys.argv[1]), sys.argv[2:]
failures, worst = [], 0
async def call(address):
    global worst
    start = time.monotonic()
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, 8080), 20)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        if b"200" not in got[:20]:
            raise OSError(repr(got[:20]))
    except Exception as error:
        failures.append(f"{address}: {error!r}")
    worst = max(worst, time.monotonic() - start)
async def main():
    end = asyncio.get_event_loop().run_in_executor(None, sys.stdin.read)
    start, count, calls = time.monotonic(), 0, set()
    while not end.done():
        due = int((time.monotonic() - start) * rate)
        while count < due:
            one = asyncio.create_task(call(addresses[count % len(addresses)]))
            calls.add(one)
            one.add_done_callback(calls.discard)
            count += 1
        await asyncio.sleep(.002)
    took = time.monotonic() - start
    await asyncio.gather(*calls)
    print(f"{count} calls, {count / took:.0f} a second, slowest {worst:.2f} s; failed:", failures)
    sys.exit(bool(failures))
asyncio.run(main())
"#;

/// Makes and removes networks, each as soon as the last one is gone.
const CHANGES: &str = "for i in $(seq $2); do \
     swarmctl network create t$1-$i && swarmctl network rm t$1-$i || exit 1; done";

#[test]
fn a_storm_of_networks_fails_no_call() {
    let lab = Lab::up(3);
    let create =
        "service create --name web --replicas 3 --publish 8080:80 -- netd whoami --port 80";
    lab.ctl("h1", create).ok();
    let callers = [
        "python3",
        "-c",
        CALLS,
        RATE,
        "192.168.100.11",
        "192.168.100.12",
    ];
    let mut calls = lab.command("h3", &callers);
    let calls = calls.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut calls = calls.spawn().expect("python3 runs");
    let clients: Vec<Said> = std::thread::scope(|scope| {
        let client = |number: usize| {
            let (host, networks) = (format!("h{}", number % 3 + 1), NETWORKS.to_string());
            let number = number.to_string();
            let words = ["bash", "-c", CHANGES, "storm", &number, &networks];
            run(&mut lab.command(&host, &words))
        };
        let clients = [1, 2, 3, 4].map(|number| scope.spawn(move || client(number)));
        clients
            .map(|client| client.join().expect("a client ends"))
            .into()
    });
    let mut input = calls.stdin.take().expect("its input");
    input.write_all(b"end").expect("it reads");
    drop(input);
    let said = ended(calls);
    println!("{} networks; {}", 4 * NETWORKS, said.out);
    assert_eq!(said.code, 0, "{said:?}");
    for client in clients {
        client.ok();
    }
    lab.ctl("h1", "network verify").ok();
    lab.ctl("h1", "ipam check").ok();
}
