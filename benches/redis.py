#!/usr/bin/env python3
"""kvs-server beside redis-server on this machine, by redis-benchmark; prints tables in Markdown.

    cargo build --release --bin kvs-server
    benches/redis.py [--server target/release/kvs-server] [--rounds 5] [--test]

Needs redis-server, redis-cli and redis-benchmark. Method: both hold the same million keys of 16 bytes
with values of 100; for each level of durability, depth of pipeline and command the two are measured
turn by turn, and the median of the rounds counts. 50 connections, keys at random out of the million.
A number is a rate as redis-benchmark reports it. CPU time is what the system charges the server,
user and kernel, over the same requests. The load generator runs on the same machine: where one server
needs less of it, the generator gets more.

| redis-server | kvs-server |
|---|---|
| --appendonly no, --save "" | --durability os: survives a killed process, which that of Redis does not |
| appendfsync everysec | --durability interval |
| appendfsync always | --durability sync |
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

CONNECTIONS = 50
VALUE = 100
TICK = os.sysconf("SC_CLK_TCK")
LEVELS = {
    "none / os": (["--appendonly", "no"], "os"),
    "everysec / interval": (["--appendonly", "yes", "--appendfsync", "everysec"], "interval"),
    "always / sync": (["--appendonly", "yes", "--appendfsync", "always"], "sync"),
}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(port, *words):
    """One reply, of one line, or None if nobody answers."""
    request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
            s.sendall(request)
            reply = b""
            while not reply.endswith(b"\r\n"):
                piece = s.recv(4096)
                if not piece:
                    return None
                reply += piece
            return reply
    except OSError:
        return None


class Server:
    def __init__(self, name, command):
        self.name, self.command = name, command
        self.start()

    def start(self):
        self.port = free_port()
        command = [str(self.port) if word == "PORT" else word.replace("PORT", str(self.port)) for word in self.command]
        self.child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_for(self, keys):
        """Seconds from now until it has so many keys."""
        begun = time.monotonic()
        wanted = b":%d\r\n" % keys
        while ask(self.port, b"DBSIZE") != wanted:
            if self.child.poll() is not None:
                sys.exit(f"{self.name} ended with {self.child.returncode}")
            if time.monotonic() - begun > 120:
                sys.exit(f"{self.name}: never {keys} keys, but {ask(self.port, b'DBSIZE')}")
            time.sleep(0.001)
        return time.monotonic() - begun

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(120)

    def cpu(self):
        with open(f"/proc/{self.child.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def anonymous(self):
        with open(f"/proc/{self.child.pid}/status") as f:
            for line in f:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
        raise RuntimeError("no RssAnon")

    def fill(self, path):
        with open(path, "rb") as stream:
            said = subprocess.run(["redis-cli", "-p", str(self.port), "--pipe"], stdin=stream, capture_output=True, check=True)
        assert b"errors: 0" in said.stdout, said.stdout

    def bench(self, command, pipeline, requests, keys):
        """Requests a second, and the CPU time of a request in microseconds."""
        before = self.cpu()
        said = subprocess.run(
            ["redis-benchmark", "-p", str(self.port), "-t", command, "-P", str(pipeline), "-n", str(requests),
             "-c", str(CONNECTIONS), "-d", str(VALUE), "-r", str(keys), "--csv"],
            capture_output=True, text=True, check=True)
        line = next(line for line in said.stdout.splitlines() if line.startswith(f'"{command.upper()}"'))
        return float(line.split(",")[1].strip('"')), (self.cpu() - before) / requests * 1e6


def stream_of(keys, directory):
    path = os.path.join(directory, "stream")
    value = b"v" * VALUE
    with open(path, "wb") as f:
        for n in range(keys):
            f.write(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%s\r\n" % (n, VALUE, value))
    return path


def main():
    parser = argparse.ArgumentParser()
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--server", default=os.path.join(target, "release/kvs-server"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runtime", default="async")
    parser.add_argument("--threads", default="", help="of kvs-server: 1 is what redis-server has (default: as many as processors)")
    parser.add_argument("--levels", default="", help="only levels whose name has this in it")
    parser.add_argument("--test", action="store_true", help="small, to see that it runs")
    args = parser.parse_args()
    for tool in ["redis-server", "redis-cli", "redis-benchmark", args.server]:
        if not shutil.which(tool):
            sys.exit(f"{tool}: not there")
    keys = 10_000 if args.test else 1_000_000
    rounds = 1 if args.test else args.rounds
    root = tempfile.mkdtemp(prefix="kvs-redis-")
    rows, memory, restart = [], [], []
    try:
        stream = stream_of(keys, root)
        for level, (redis_args, durability) in LEVELS.items():
            if args.levels not in level:
                continue
            dirs = [os.path.join(root, f"{who}-{durability}") for who in ("redis", "kvs")]
            for directory in dirs:
                os.mkdir(directory)
            redis = Server("redis", ["redis-server", "--port", "PORT", "--bind", "127.0.0.1", "--save", "",
                                     "--dir", dirs[0], *redis_args])
            kvs = Server("kvs", [args.server, "--addr", "127.0.0.1:PORT", "--dir", dirs[1],
                                 "--durability", durability, "--runtime", args.runtime,
                                 *(["--threads", args.threads] if args.threads else [])])
            pair = [redis, kvs]
            for server in pair:
                server.wait_for(0)
            empty = [server.anonymous() for server in pair]
            for server in pair:
                server.fill(stream)
                server.wait_for(keys)
            if durability == "os":
                memory = [(server.anonymous() - least) / keys for server, least in zip(pair, empty)]
            for command in ["set", "get"] if durability == "os" else ["set"]:
                for pipeline in [1, 16, 64]:
                    requests = {1: 100_000, 16: 500_000, 64: 1_000_000}[pipeline]
                    if durability == "sync":
                        requests //= 4
                    if args.test:
                        requests = 2000
                    samples = [[], []]
                    for n in range(rounds):
                        for at in [0, 1] if n % 2 == 0 else [1, 0]:
                            samples[at].append(pair[at].bench(command, pipeline, requests, keys))
                    rates = [statistics.median(rate for rate, _ in samples[at]) for at in (0, 1)]
                    costs = [statistics.median(cost for _, cost in samples[at]) for at in (0, 1)]
                    rows.append((level, command, pipeline, rates, costs))
            if durability == "interval":
                for server in pair:
                    took = []
                    for _ in range(1 if args.test else 3):
                        server.stop()
                        server.start()
                        took.append(server.wait_for(keys))
                    restart.append(statistics.median(took))
            for server in pair:
                server.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print("| durability | command | pipeline | Redis, requests/s | kvs, requests/s | | Redis, CPU µs/request | kvs, CPU µs/request | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for level, command, pipeline, rates, costs in rows:
        cost = costs[0] / costs[1] if costs[1] else float("nan")
        print(f"| {level} | {command.upper()} | {pipeline} | {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[1] / rates[0]:.2f}× "
              f"| {costs[0]:.2f} | {costs[1]:.2f} | {cost:.2f}× less |")
    if memory:
        print(f"\nPrivate memory a key, of {keys:,}: Redis {memory[0]:.1f} bytes, kvs {memory[1]:.1f}.")
    if restart:
        print(f"Restart to the right DBSIZE of {keys:,}: Redis {restart[0] * 1e3:,.0f} ms, kvs {restart[1] * 1e3:,.0f} ms.")


if __name__ == "__main__":
    main()
