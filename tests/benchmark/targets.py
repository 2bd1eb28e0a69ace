"""The targets, with the services that they need, and the processes that run them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from copier import run_copy

from ..clone import clone_template
from ..support import LAYERS, TESTS, closed
from .workload import WORKLOADS

TWELVE: Final = (
    "access_log",
    "request_id",
    "timing",
    "cors",
    "security_headers",
    "trusted_host",
    "compression",
    "rate_limit",
    "metrics",
    "authentication",
    "body_limit",
    "error_handler",
)


@dataclass(frozen=True)
class Target:
    """An app by the name that `apps` knows it by, and the folder of its service."""

    label: str
    app: str
    service: Path

    def environment(self) -> dict[str, str]:
        path = f"{self.service}{os.pathsep}{TESTS}"
        return {
            **os.environ,
            "BENCHMARK_TARGET": self.app,
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": path,
        }


class Targets:
    """Renders services into a folder as they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.template = folder / "template"
        clone_template(self.template)

    def service(self, name: str, **answers: Any) -> Path:
        service = self.folder / name
        if not service.exists():
            # Requests of the benchmarks are anonymous, unless they carry a token.
            data = {"authentication_required": False, **answers}
            run_copy(
                str(self.template), service, data=data, defaults=True, quiet=True, vcs_ref="HEAD"
            )
        return service

    def bare(self) -> Target:
        return Target("bare FastAPI", "telemetry", self.folder)

    def quiet(self) -> Target:
        return Target("bare FastAPI, its telemetry off", "bare", self.folder)

    def layers(self, label: str, *names: str) -> Target:
        service = self.service("-".join(names), layers=[*names])
        return Target(label, "stack", service)

    def alone(self, name: str) -> Target:
        return self.layers(name, *closed([name]))

    def required(self, name: str) -> Target:
        """Return what `name` can't do without; nothing is measured as bare, telemetry off."""
        needed = [other for other in closed([name]) if other != name]
        return self.layers(", ".join(needed), *needed) if needed else self.quiet()

    def twelve(self) -> Target:
        return Target("the twelve concerns", "stack", self.service("twelve", layers=[*TWELVE]))

    def everything(self) -> Target:
        label = f"everything, {len(LAYERS)} layers"
        return Target(label, "stack", self.service("everything", preset="everything"))

    def policies(self, entries: int) -> Target:
        """Return everything with so many entries for other routes than the measured one."""
        service = self.service("everything", preset="everything")
        return Target(str(entries), f"policies:{entries}", service)

    def popular(self) -> Target:
        return Target("popular libraries", "popular", self.folder)

    def tutorial(self) -> Target:
        return Target("the tutorial way", "tutorial", self.folder)

    def stacks(self) -> list[Target]:
        """Return what is compared: bare first."""
        return [
            self.bare(),
            self.quiet(),
            self.twelve(),
            self.everything(),
            self.popular(),
            self.tutorial(),
        ]


@contextmanager
def targets() -> Generator[Targets]:
    """Yield targets whose services are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        yield Targets(Path(folder))


class Worker:
    """A process that measures one target, under callgrind if it is to count instructions."""

    def __init__(self, target: Target, *, callgrind: bool = False, routes: int = 1) -> None:
        self._has_layers = target.app.startswith(("stack", "policies", "popular", "tutorial"))
        self._out = Path(tempfile.mkdtemp(prefix="callgrind-", dir=target.service))
        command = [sys.executable, "-m", "benchmark.worker", target.app, str(routes)]
        if callgrind:
            options = ["--quiet", "--tool=callgrind", "--instr-atstart=no"]
            command = ["valgrind", *options, f"--callgrind-out-file={self._out}/of.%p", *command]
        self._errors = (self._out / "errors").open("w+")
        self._process = subprocess.Popen(
            command,
            cwd=target.service,
            env={**target.environment(), "CALLGRIND_OUT": str(self._out)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._errors.close()
        shutil.rmtree(self._out)

    def measure(self, what: str, name: str, count: int, **options: Any) -> float:
        """Return what one of `count` requests took; all must get the expected status."""
        told = {"what": what, "name": name, "count": count, **options}
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(json.dumps(told), file=stdin, flush=True)
        line = stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(self._errors.read()[-2000:])
        statuses, taken = json.loads(line)
        # The first one can spend the limit that the others meet.
        others = max(1, count - 1)
        if self._has_layers and statuses.get(str(WORKLOADS[name].status), 0) < others:
            msg = f"{name} was answered {statuses}"
            raise RuntimeError(msg)
        return float(taken)
