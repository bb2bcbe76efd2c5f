# Calls by name, in turn on a connection of its own and on one that is kept, until told to stop. Every failure is a line.
import http.client, os, time

kept, calls = None, 0
while not os.path.exists('/tmp/stop'):
    try:
        kept = kept or http.client.HTTPConnection('front', 80, timeout=30)
        for connection in http.client.HTTPConnection('front.shop', 80, timeout=30), kept:
            connection.request('GET', '/')
            reply = connection.getresponse()
            text = reply.read()
            assert reply.status == 200 and text.isdigit(), (reply.status, text)
            calls += 1
            if connection is not kept:
                connection.close()
    except Exception as error:
        print('failed', repr(error), flush=True)
        kept = None
    time.sleep(.02)
print('calls', calls, flush=True)
