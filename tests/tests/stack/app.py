# Counts every request in redis and writes it down in postgres: what both say must agree with what clients were told.
import http.server, signal, socket, socketserver, threading, psycopg2

here = threading.local()
leaving = threading.Event()


def count():
    if not hasattr(here, 'cache'):
        here.cache = socket.create_connection(('cache', 6379), 10)
        here.db = psycopg2.connect(host='db', user='postgres', dbname='postgres', connect_timeout=10)
        here.db.autocommit = True
    here.cache.sendall(b'INCR hits\r\n')
    number = here.cache.recv(99).decode()[1:].strip()
    here.db.cursor().execute('insert into hits values (%s)', (number,))
    return number


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    timeout = 60

    def do_GET(self):
        body = count().encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        # Who leaves serves what comes on open connections, and takes leave of each.
        if leaving.is_set():
            self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family, request_queue_size = socket.AF_INET6, 128


def leave(*_):
    leaving.set()
    threading.Thread(target=server.shutdown).start()


server = Server(('::', 8000), App)
server.daemon_threads = False
signal.signal(signal.SIGTERM, leave)
server.serve_forever()
