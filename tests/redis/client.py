"""What programs do with redis-py, against the server at the port that is given."""

import sys
import threading

import redis

port, protocol = int(sys.argv[1]), int(sys.argv[2])
r = redis.Redis(port=port, protocol=protocol, socket_timeout=20)

assert r.ping()
assert r.set("py:a", "1") and r.get("py:a") == b"1"
assert r.get("py:none") is None
assert r.set("py:a", "2", nx=True) is None
assert r.set("py:a", "3", xx=True, get=True) == b"1"
assert r.incr("py:n") == 1 and r.incrby("py:n", 41) == 42 and r.decr("py:n", 2) == 40
assert float(r.incrbyfloat("py:f", "0.5")) == 0.5
assert r.append("py:s", "hello") == 5 and r.strlen("py:s") == 5
assert r.getrange("py:s", 1, 3) == b"ell" and r.setrange("py:s", 5, "!") == 6
assert r.mset({"py:x": "1", "py:y": "2"}) and r.mget("py:x", "py:y", "py:z") == [b"1", b"2", None]
assert r.msetnx({"py:x": "1", "py:z": "2"}) in (False, 0)
assert r.exists("py:x", "py:y", "py:z") == 2 and r.delete("py:x", "py:z") == 1
assert r.getdel("py:y") == b"2" and r.getset("py:a", "4") == b"3"
assert r.rename("py:a", "py:b") and r.type("py:b") == b"string"
assert sorted(r.keys("py:*")) == [b"py:b", b"py:f", b"py:n", b"py:s"]
assert r.dbsize() >= 4 and r.info()["redis_version"]

binary = bytes(range(256))
assert r.set(binary, binary) and r.get(binary) == binary and r.unlink(binary) == 1

for wrong in (lambda: r.incr("py:s"), lambda: r.execute_command("NOSUCH"), lambda: r.execute_command("GET")):
    try:
        wrong()
        raise SystemExit("no error")
    except redis.ResponseError:
        pass

with r.pipeline(transaction=False) as pipe:
    for i in range(1000):
        pipe.set(f"py:{i}", i)
        pipe.get(f"py:{i}")
    replies = pipe.execute()
    assert replies[1::2] == [str(i).encode() for i in range(1000)]

with r.pipeline(transaction=True) as pipe:
    pipe.incr("py:t").incr("py:t").get("py:t")
    assert pipe.execute() == [1, 2, b"2"]


def increments():
    own = redis.Redis(port=port, protocol=protocol, socket_timeout=20)

    def step(pipe):
        value = int(pipe.get("py:watched") or 0)
        pipe.multi()
        pipe.set("py:watched", value + 1)

    for _ in range(50):
        own.transaction(step, "py:watched")


threads = [threading.Thread(target=increments) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert r.get("py:watched") == b"200", r.get("py:watched")
print("done")
