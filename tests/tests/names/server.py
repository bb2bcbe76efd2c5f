"""A resolver of somebody else: every name is 192.0.2.77; prints what it is asked."""

import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1] if sys.argv[1:] else "0.0.0.0", 53))
while True:
    query, client = server.recvfrom(4096)
    end = query.index(b"\0", 12) + 1
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += query[at] + 1
    kind = int.from_bytes(query[end : end + 2], "big")
    print("asked", ".".join(labels), kind, flush=True)
    answers = 1 if kind == 1 else 0
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\x4d" if answers else b""
    server.sendto(query[:2] + b"\x81\x80\0\1\0" + bytes([answers]) + b"\0\0\0\0" + query[12 : end + 4] + record, client)
