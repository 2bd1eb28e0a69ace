"""Several Redis servers on this machine: three behind Sentinel, and a Cluster of six."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import pytest

from .support import free_port, run

_SECONDS: Final = 30
# Milliseconds after which a server that is silent counts as gone; the default is 30 or 15 seconds.
_SILENCE: Final = 1000

Set = TypeVar("Set", bound="RedisSet")


class RedisSet:
    """Servers that replace each other; `url` is what STORAGE_URL says of them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        if shutil.which("redis-server") is None or shutil.which("redis-cli") is None:
            pytest.skip("redis-server is not installed; these tests start their own")
        self.folder = folder
        self.url = ""
        self._stack = stack
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, port: int, *lines: str, sentinel: bool = False) -> None:
        home = self.folder / str(port)
        home.mkdir()
        text = "\n".join([f"port {port}", "bind 127.0.0.1", f"dir {home}", *lines, ""])
        (home / "redis.conf").write_text(text, "utf-8")
        self.run(port, *(["--sentinel"] if sentinel else []))

    def run(self, port: int, *options: str) -> None:
        """Run a server with its configuration, as changed by those that it met."""
        home = self.folder / str(port)
        command = ["redis-server", str(home / "redis.conf"), *options]
        with (home / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self._processes[port] = process
        self.wait_for(port, "PING", "PONG")

    def kill(self, port: int) -> None:
        self._processes[port].kill()
        self._processes[port].wait()

    def hang(self, port: int) -> None:
        """Let a server keep its connections and its data, and do nothing."""
        os.kill(self._processes[port].pid, signal.SIGSTOP)

    def ask(self, port: int, *command: str) -> str:
        return run("redis-cli", "-p", str(port), *command, cwd=self.folder).stdout

    def wait_for(self, port: int, command: str, answer: str) -> None:
        ends_at = time.monotonic() + _SECONDS
        while answer not in (found := self.ask(port, *command.split())):
            assert time.monotonic() < ends_at, found
            time.sleep(0.1)


class Sentinels(RedisSet):
    """A master with two replicas, and three Sentinels of which two decide."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        first, *replicas = servers = [free_port() for _ in range(3)]
        for port in servers:
            replica = [] if port == first else [f"replicaof 127.0.0.1 {first}"]
            self.start(port, 'save ""', *replica)
        for port in replicas:
            self.wait_for(port, "INFO replication", "master_link_status:up")
        self.sentinels = [free_port() for _ in range(3)]
        for port in self.sentinels:
            self.start(
                port,
                f"sentinel monitor mymaster 127.0.0.1 {first} 2",
                f"sentinel down-after-milliseconds mymaster {_SILENCE}",
                "sentinel failover-timeout mymaster 5000",
                sentinel=True,
            )
        for port in self.sentinels:
            self.wait_for(port, "SENTINEL CKQUORUM mymaster", "OK 3 usable")
            self.wait_for(port, "INFO sentinel", "slaves=2")
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/mymaster"

    def primary(self) -> int:
        found = self.ask(self.sentinels[0], "SENTINEL", "get-master-addr-by-name", "mymaster")
        return int(found.split()[-1])


class Cluster(RedisSet):
    """Three primaries with a replica each."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        self.ports = [free_port() for _ in range(6)]
        for port in self.ports:
            lines = ("cluster-enabled yes", f"cluster-node-timeout {_SILENCE}")
            # The bus has its own port, 10000 higher by default.
            self.start(port, 'save ""', *lines, f"cluster-port {free_port()}")
        hosts = [f"127.0.0.1:{port}" for port in self.ports]
        options = ("--cluster-replicas", "1", "--cluster-yes")
        done = run("redis-cli", "--cluster", "create", *hosts, *options, cwd=folder)
        assert done.returncode == 0, done.stdout
        for port in self.ports:
            self.wait_for(port, "CLUSTER INFO", "cluster_state:ok")
            self.wait_for(port, "CLUSTER INFO", "cluster_known_nodes:6")
        for port in self.ports[3:]:
            self.wait_for(port, "INFO replication", "master_link_status:up")
        self.url = f"redis+cluster://{','.join(hosts[:2])}"

    def primary(self) -> int:
        return self.ports[0]


@contextmanager
def several(kind: type[Set], folder: Path) -> Generator[Set]:
    with ExitStack() as stack:
        yield kind(folder, stack)
