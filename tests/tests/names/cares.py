"""Prints the addresses of names as c-ares finds them, or glibc where told so; one line per name."""

import select
import socket
import sys


def with_cares(name):
    import pycares

    channel, found = pycares.Channel(), []

    def done(result, error):
        found.extend([f"error {error}"] if error else [node.addr[0].decode() for node in result.nodes])

    channel.getaddrinfo(name, None, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM, callback=done)
    while True:
        reading, writing = channel.getsock()
        if not reading and not writing:
            return found
        ready = select.select(reading, writing, [], channel.timeout())
        for descriptor in ready[0]:
            channel.process_fd(descriptor, pycares.ARES_SOCKET_BAD)
        for descriptor in ready[1]:
            channel.process_fd(pycares.ARES_SOCKET_BAD, descriptor)
        if not ready[0] and not ready[1]:
            channel.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)


def with_glibc(name):
    try:
        return [entry[4][0] for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except OSError as error:
        return [f"error {error}"]


for asked in sys.argv[2:]:
    find = with_cares if sys.argv[1] == "cares" else with_glibc
    print(f"{asked}:", *[address.split("%")[0] for address in find(asked)], flush=True)
