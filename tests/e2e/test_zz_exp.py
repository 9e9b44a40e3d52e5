import socket, time, json
import psutil
from collections.abc import Callable
from typing import Any
from tests.e2e.client import Call, Closed

def test_exp(server, dial, new_tenant):
    call = dial(new_tenant())
    call.start()
    call.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    rss = psutil.Process(server.process.pid).memory_info().rss
    sent = 0
    t=time.monotonic()
    for n in range(900):
        call.say(bytes(9600))
        sent += 9600
        time.sleep(0.003)
    print("sent", sent, time.monotonic()-t)
    time.sleep(1)
    print("rss +", (psutil.Process(server.process.pid).memory_info().rss-rss)/1e6)
    call.say({"type": "session.stop"})
    got = 0
    while True:
        thing = call.hear()
        if isinstance(thing, bytes): got += len(thing)
        else: print(thing)
        if isinstance(thing, Closed) or not isinstance(thing, (bytes, dict)): break
    print("got", got)
    print([l for l in server.log.read_text().splitlines() if "dropped" in l])
