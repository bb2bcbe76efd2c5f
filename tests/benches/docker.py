# ROUNDS NETWORK...: connects and runs containers on each network in turn, and eight at once; medians in milliseconds.
import http.client, json, socket, statistics, sys, threading, time

class Engine(http.client.HTTPConnection):
    def __init__(self):
        super().__init__('docker')
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect('/run/docker.sock')
    def ask(self, method, path, body=None):
        self.request(method, path, json.dumps(body or {}), {'Content-Type': 'application/json'})
        answer = self.getresponse()
        text = answer.read()
        assert answer.status < 400, (method, path, answer.status, text)
        return json.loads(text) if text.strip().startswith(b'{') else None

def create(engine, name, network, *words):
    host = {'NetworkMode': network}
    body = {'Image': 'busybox', 'Cmd': ['/bin/busybox', *words], 'HostConfig': host}
    engine.ask('POST', '/containers/create?name=' + name, body)

def timed(work):
    start = time.monotonic()
    work()
    return (time.monotonic() - start) * 1000

def connect(engine, name, network):
    took = timed(lambda: engine.ask('POST', f'/networks/{network}/connect', {'Container': name}))
    engine.ask('POST', f'/networks/{network}/disconnect', {'Container': name})
    return took

def run(engine, name, network):
    def work():
        create(engine, name, network, 'ping', '-c', '1', '-W', '5', peers[network])
        engine.ask('POST', f'/containers/{name}/start')
        assert engine.ask('POST', f'/containers/{name}/wait')['StatusCode'] == 0
    took = timed(work)
    engine.ask('DELETE', f'/containers/{name}?force=1')
    return took

def at_once(work, names, network):
    took, barrier = [], threading.Barrier(len(names))
    def one(name):
        engine = Engine()
        barrier.wait()
        took.append(work(engine, name, network))
    threads = [threading.Thread(target=one, args=[name]) for name in names]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(took) == len(names)
    return took

rounds, networks = int(sys.argv[1]), sys.argv[2:]
engine, peers = Engine(), {}
for network in networks:
    create(engine, 'peer-' + network, network, 'sleep', '1000000')
    engine.ask('POST', f'/containers/peer-{network}/start')
    inspected = engine.ask('GET', f'/containers/peer-{network}/json')
    peers[network] = inspected['NetworkSettings']['Networks'][network]['IPAddress']
names = [f'c{number}' for number in range(8)]
for name in names:
    create(engine, name, 'none', 'sleep', '1000000')
    engine.ask('POST', f'/containers/{name}/start')
    engine.ask('POST', '/networks/none/disconnect', {'Container': name})
runs = [f'r{number}' for number in range(8)]
took = {}
for number in range(rounds):
    for network in networks:
        took.setdefault(('connect', network), []).append(connect(engine, 'c0', network))
        took.setdefault(('run to first packet', network), []).append(run(engine, 'r0', network))
        if number < rounds // 8 + 1:
            took.setdefault(('connect, 8 at once', network), []).extend(at_once(connect, names, network))
            took.setdefault(('run to first packet, 8 at once', network), []).extend(at_once(run, runs, network))
print('| median of', rounds, '|', ' | '.join(networks), '|')
print('|---' * (len(networks) + 1) + '|')
for what in dict.fromkeys(what for what, _ in took):
    print('|', what, '|', ' | '.join(f'{statistics.median(took[what, network]):.1f} ms' for network in networks), '|')
