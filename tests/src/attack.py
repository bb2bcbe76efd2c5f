"""What a peer without a certificate can do to the control plane. Prints one line at its end.

    idle COUNT SECONDS ADDRESS...      TLS connections that say nothing, all open at a time
    silent COUNT SECONDS ADDRESS...    the same, that have begun to speak HTTP/2
    unfinished COUNT STREAMS BYTES SECONDS ADDRESS...
                                       joins of so many bytes that never end
    garbage COUNT ADDRESS...           connections that do not begin with TLS
    wrong CONNECTIONS SECONDS ADDRESS...
                                       joins with a wrong token, one after the other on each
"""

import itertools, json, resource, select, socket, ssl, struct, sys, threading, time

PORT = 2377
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1

most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["h2"])


def connect(address):
    tcp = socket.create_connection((address, PORT), 5)
    return context.wrap_socket(tcp, server_hostname="member.netd")


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value):
    return bytes([len(value)]) + value


JOIN = b"\x83\x87\x04" + text(b"/netd.v1.Membership/Join") + b"\x01" + text(b"member.netd") \
    + b"\x0f\x10" + text(b"application/grpc") + b"\x00" + text(b"te") + text(b"trailers")


def call(hostname, own):
    said = json.dumps({"secret": "0" * 25, "request": "none", "hostname": hostname, "level": 6,
                       "address": f"{own}:{PORT}", "vtep": own}).encode()
    length, size = b"", len(said)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    message = b"\x0a" + length + bytes([size]) + said
    return b"\x00" + struct.pack(">I", len(message)) + message


def read_frame(stream):
    def exactly(count):
        got = b""
        while len(got) < count:
            more = stream.recv(count - len(got))
            if not more:
                raise EOFError
            got += more
        return got
    head = exactly(9)
    length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
    return kind, flags, int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, exactly(length)


def still_open(streams):
    count = 0
    for stream in streams:
        stream.setblocking(False)
        try:
            while stream.recv(65536):
                pass
        except (ssl.SSLWantReadError, BlockingIOError):
            count += 1
        except OSError:
            pass
    return count


def hold(count, seconds, addresses, first_words):
    end, streams, failed = time.monotonic() + seconds, [], 0
    for address in itertools.islice(itertools.cycle(addresses), count):
        try:
            stream = connect(address)
            stream.sendall(first_words)
            streams.append(stream)
        except OSError:
            failed += 1
        if time.monotonic() > end:
            break
    opened, held = len(streams), still_open(streams)
    time.sleep(max(0, end - time.monotonic()))
    print(f"{opened} connections opened, {failed} failed, {held} held at once, "
          f"{still_open(streams)} open at the end")


def unfinished(count, streams, size, seconds, addresses):
    """Sends as much of each body as the other end lets it: HTTP/2's windows are obeyed."""
    end, held, total, sent_by = time.monotonic() + seconds, [], 0, threading.Lock()

    def one(address):
        nonlocal total
        try:
            stream = connect(address)
            stream.sendall(PREFACE + frame(SETTINGS, 0, 0))
            window, connection, allowed = 65535, 65535, None
            stream.settimeout(1)
            left = {}
            while time.monotonic() < end:
                try:
                    kind, flags, number, payload = read_frame(stream)
                    if kind == SETTINGS and not flags & ACK:
                        told = dict(struct.unpack(">HI", payload[i:i + 6])
                                    for i in range(0, len(payload), 6))
                        window, allowed = told.get(4, 65535), told.get(3, 1 << 30)
                        stream.sendall(frame(SETTINGS, ACK, 0))
                        for index in range(min(streams, allowed)):
                            own = 2 * index + 1
                            stream.sendall(frame(HEADERS, END_HEADERS, own, JOIN))
                            left[own] = window
                            begin = b"\x00" + struct.pack(">I", size) + b"\x0a"
                            stream.sendall(frame(DATA, 0, own, begin))
                    elif kind == WINDOW_UPDATE:
                        more = struct.unpack(">I", payload)[0]
                        if number:
                            left[number] = left.get(number, 0) + more
                        else:
                            connection += more
                    elif kind == PING and not flags & ACK:
                        stream.sendall(frame(PING, ACK, 0, payload))
                    elif kind in (RST_STREAM, GOAWAY):
                        left.pop(number, None)
                except TimeoutError:
                    pass
                for own, may in list(left.items()):
                    chunk = min(may, connection, 16384)
                    if chunk > 0:
                        stream.sendall(frame(DATA, 0, own, bytes(chunk)))
                        left[own] -= chunk
                        connection -= chunk
                        with sent_by:
                            total += chunk
        except (OSError, EOFError):
            pass

    threads = [threading.Thread(target=one, args=(address,))
               for address in itertools.islice(itertools.cycle(addresses), count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{total} bytes of joins sent on {count} connections")


def garbage(count, addresses):
    closed = 0
    for address in itertools.islice(itertools.cycle(addresses), count):
        try:
            with socket.create_connection((address, PORT), 5) as tcp:
                tcp.sendall(b"\x16garbage" * 64)
                tcp.settimeout(5)
                while tcp.recv(4096):
                    pass
        except OSError:
            pass
        closed += 1
    print(f"{closed} connections of garbage")


def wrong(connections, seconds, addresses):
    end, answers, lost, lock = time.monotonic() + seconds, 0, 0, threading.Lock()

    def one(address):
        nonlocal answers, lost
        while time.monotonic() < end:
            try:
                stream = connect(address)
                stream.settimeout(5)
                own = stream.getsockname()[0]
                stream.sendall(PREFACE + frame(SETTINGS, 0, 0))
                for number in itertools.count(1, 2):
                    if time.monotonic() > end:
                        return
                    stream.sendall(frame(HEADERS, END_HEADERS, number, JOIN)
                                   + frame(DATA, END_STREAM, number, call("stranger", own)))
                    while True:
                        kind, flags, whose, payload = read_frame(stream)
                        if kind == PING and not flags & ACK:
                            stream.sendall(frame(PING, ACK, 0, payload))
                        elif kind == SETTINGS and not flags & ACK:
                            stream.sendall(frame(SETTINGS, ACK, 0))
                        elif kind == GOAWAY:
                            raise EOFError
                        elif whose == number and (flags & END_STREAM or kind == RST_STREAM):
                            break
                    with lock:
                        answers += 1
            except (OSError, EOFError):
                with lock:
                    lost += 1

    threads = [threading.Thread(target=one, args=(address,))
               for address in itertools.islice(itertools.cycle(addresses), connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{answers} wrong joins answered, {answers / seconds:.0f} a second; "
          f"{lost} connections lost")


kind, words = sys.argv[1], sys.argv[2:]
if kind in ("idle", "silent"):
    first_words = b"" if kind == "idle" else PREFACE + frame(SETTINGS, 0, 0)
    hold(int(words[0]), float(words[1]), words[2:], first_words)
elif kind == "unfinished":
    unfinished(int(words[0]), int(words[1]), int(words[2]), float(words[3]), words[4:])
elif kind == "garbage":
    garbage(int(words[0]), words[1:])
elif kind == "wrong":
    wrong(int(words[0]), float(words[1]), words[2:])
