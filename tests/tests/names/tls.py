"""A DNS server over TLS at 127.0.0.1: every name is 192.0.2.78."""

import socket
import ssl
import sys
import threading


def serve(stream):
    def read(length):
        data = b""
        while len(data) < length:
            more = stream.recv(length - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    while True:
        query = read(int.from_bytes(read(2), "big"))
        end = query.index(b"\0", 12) + 5
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\x4e"
        answer = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:end] + record
        stream.sendall(len(answer).to_bytes(2, "big") + answer)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
with socket.create_server(("127.0.0.1", 853)) as listener:
    while True:
        client, _ = listener.accept()
        stream = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=serve, args=(stream,), daemon=True).start()
