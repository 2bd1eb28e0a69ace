"""What operators get: the alerts fire when they should, and each query finds what it asks for."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

import jwt
import pytest
import yaml
from copier import run_copy
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, RowPanel
from grafana_foundation_sdk.models.prometheus import Dataquery

from .conftest import Render
from .promtool import CASES, JOB, rejections
from .support import LAYERS, ROOT, free_port, read_yaml, run

SECONDS: Final = 60
PASSWORD: Final = "orange-peel"  # noqa: S105 - of a Redis that a test starts
KEY: Final = "Zq3v8KpT1sXw6YbN4mRj7HcD0fLg9aEu"
SETTINGS: Final = {
    "ALLOWED_HOSTS": "localhost,127.0.0.1,api.test",
    "BLOCKED_CLIENTS": "LegacyApp/1.",
    "IP_DENY": "198.51.100.0/24",
    "JWT_ALGORITHMS": "HS256",
    "JWT_KEY": KEY,
    "MAX_BODY_BYTES": "1000",
    "MAX_CONCURRENCY": "1",
    "QUEUE_TIMEOUT": "0",
    "RATE_LIMIT": "20/minute",
    "REQUEST_TIMEOUT": "0.5",
    "REQUIRED_HEADERS": "X-Environment: test",
    "SESSION_SECRET": KEY,
    "USER_RATE_LIMIT": "3/hour",
}
SLOW: Final = """

@app.get("/slow")
async def slow() -> None:
    import asyncio

    await asyncio.sleep(2)
"""


def needed(name: str) -> str:
    """Return where a program is; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; Debian has it in its package {PACKAGES[name]}")
    return found


REJECTIONS: Final = read_yaml(ROOT / "hooks/ops/alerts.yml")["rejections"]
REJECTING: Final = {name for name, layer in LAYERS.items() if "refuses" in layer}
PACKAGES: Final = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "redis-cli": "redis-tools",
    "redis-server": "redis-server",
}


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("ops") / "service"
    data = {"preset": "everything", "storage": "redis", "project_name": JOB.capitalize()}
    run_copy(str(template), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    return folder


@pytest.fixture(scope="module")
def alerts(service: Path) -> dict[str, dict[str, Any]]:
    rules = [
        rule
        for group in read_yaml(service / "ops/alerts.yml")["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    return {rule["alert"]: rule for rule in rules}


SELECTIONS: Final[dict[str, dict[str, Any]]] = {
    "everything": {"preset": "everything", "storage": "redis"},
    "metrics": {"preset": "api"},
    "tracing": {"layers": ["tracing"]},
    "redis": {"layers": ["rate_limit"], "storage": "redis"},
}


# What is rendered


def test_without_a_reason_nothing_is_rendered(render: Render) -> None:
    service = render(preset="minimal")

    assert not (service / "compose.yaml").exists()
    assert not (service / "ops").exists()


def test_each_layer_brings_what_it_is_seen_by(render: Render) -> None:
    shown = {
        name: (
            {*containers(service)} - {"service"},
            {path.name for path in service.glob("ops/*")},
        )
        for name, answers in SELECTIONS.items()
        for service in [render(name, **answers)]
    }

    metrics = {"alerts.yml", "dashboard.json", "grafana", "prometheus.yml"}
    assert shown == {
        "everything": ({"grafana", "jaeger", "prometheus", "redis"}, metrics | {"redis.conf"}),
        "metrics": ({"grafana", "prometheus"}, metrics),
        "tracing": ({"jaeger"}, set()),
        "redis": ({"redis"}, {"redis.conf"}),
    }


# The containers


@pytest.mark.parametrize("name", SELECTIONS)
def test_compose_accepts_its_file_and_nothing_in_it_has_more_rights_than_it_needs(
    name: str, render: Render
) -> None:
    service = render(**SELECTIONS[name])
    checker = Path(sys.executable).with_name("check-jsonschema")
    schema = ("--builtin-schema", "vendor.compose-spec")

    done = run(checker, *schema, "compose.yaml", cwd=service)

    assert done.returncode == 0, done.stdout
    volumes = read_yaml(service / "compose.yaml").get("volumes", {})
    for container in containers(service).values():
        assert container["read_only"]
        assert container["cap_drop"] == ["ALL"]
        assert container["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in container.get("ports", ()))
        for volume in container.get("volumes", ()):
            source, _, rest = volume.partition(":")
            assert source in volumes or ((service / source).is_file() and rest.endswith(":ro"))
        if "build" not in container:
            assert re.fullmatch(r"[\w./-]+:v?\d+[.]\d+[\w.-]*", container["image"])
            assert container["user"] not in {"root", "0", "0:0"}
            assert {*container["healthcheck"]} == {"test", "interval", "timeout"}


def test_redis_asks_for_the_password_refuses_what_is_too_much_and_keeps_the_rest(
    service: Path, tmp_path: Path
) -> None:
    redis = Redis(tmp_path, service)

    with redis.running():
        assert redis.ask("CONFIG", "GET", "maxmemory-policy").split()[-1] == "noeviction"
        assert "NOAUTH" in redis.ask("-a", "wrong", "--no-auth-warning", "PING")
        redis.ask("SET", "answer", "kept")
        time.sleep(1.2)  # what was written is on the disk after a second
    with redis.running():
        assert redis.ask("GET", "answer") == "kept"


@pytest.mark.parametrize("name", SELECTIONS)
def test_compose_overrides_no_setting_of_the_file(name: str, render: Render) -> None:
    """`environment` wins over `env_file`; the addresses there are those of the other containers."""
    environment = containers(render(**SELECTIONS[name]))["service"].get("environment", {})

    fixed = {key for key, value in environment.items() if value and f"${{{key}:-" not in value}
    assert fixed <= {"STORAGE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"}


@pytest.mark.parametrize("name", SELECTIONS)
def test_the_settings_of_compose_start_the_service(name: str, render: Render) -> None:
    service = render(**SELECTIONS[name])
    environment = containers(service)["service"].get("environment", {})
    values = {"JWT_KEY": KEY, "JWT_ALGORITHMS": "HS256", "SESSION_SECRET": KEY}
    given: dict[str, Any] = {
        key: (
            values[key]
            if value is None
            else value.replace("${REDIS_PASSWORD:?must be letters and digits}", "x")
        )
        for key, value in environment.items()
    }

    given = {key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) for key, value in given.items()}
    done = run(sys.executable, "-c", "import app.main", cwd=service, **given)

    assert done.returncode == 0, done.stdout


# The dashboard


def test_grafana_knows_each_word_of_the_dashboard(service: Path) -> None:
    """What its own types don't know is lost on the way through them."""
    register_default_plugins()
    text = (service / "ops/dashboard.json").read_text("utf-8")
    parsed = Dashboard.from_json(json.loads(text))

    kept = json.loads(JSONEncoder().encode(parsed))

    assert [*_lost(json.loads(text), kept)] == []
    for panel in parsed.panels or ():
        assert isinstance(panel, RowPanel) or all(
            isinstance(target, Dataquery) for target in panel.targets or ()
        )


def _lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from _lost(value, kept.get(key), f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (value, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(value, other, f"{path}[{number}]")
    elif given != kept:
        yield f"{path}: {given!r} became {kept!r}"


def test_no_panel_covers_another(service: Path) -> None:
    dashboard = json.loads((service / "ops/dashboard.json").read_text("utf-8"))
    taken = [
        (x, y)
        for panel in dashboard["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]

    assert len(taken) == len({*taken})
    assert max(x for x, _ in taken) < 24


# The alerts


def test_an_alert_fires_when_it_should(
    service: Path, alerts: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    promtool = needed("promtool")
    cases = dict(CASES)
    for name, rejection in REJECTIONS.items():
        alert = "".join(word.capitalize() for word in name.split("_")) + "Rejects"
        cases |= rejections(alert, name, rejection["share"])
    assert {case.alert for case in cases.values()} == {*alerts}
    for name, case in cases.items():
        annotations, labels = (alerts[case.alert][key] for key in ("annotations", "labels"))
        document = {
            "rule_files": [str(service / "ops/alerts.yml")],
            "tests": [{"name": name, **case.test(annotations, labels["severity"])}],
            # Of two days each minute would take long, and is not needed.
            "evaluation_interval": "5m" if case.minutes > 1000 else "1m",
        }
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(document), "utf-8")

    done = run(promtool, "test", "rules", *(f"{name}.yml" for name in cases), cwd=tmp_path)

    assert done.returncode == 0, done.stdout


def test_an_alert_says_why_and_where_to_read_on(
    service: Path, alerts: dict[str, dict[str, Any]]
) -> None:
    for alert in alerts.values():
        assert {*alert["annotations"]} == {"summary", "description", "page"}
        assert (service / alert["annotations"]["page"]).exists()


def test_probes_and_scrapes_are_left_out_by_the_paths_that_they_have(service: Path) -> None:
    text = (service / "ops/alerts.yml").read_text("utf-8")
    example = dict(
        line.lstrip("# ").split("=", 1)
        for line in (service / ".env.example").read_text("utf-8").splitlines()
        if re.match(r"#? ?[A-Z_]+=", line)
    )
    paths = {example[name] for name in ("METRICS_PATH", "PROBE_PATHS", "READINESS_PATH")}

    left_out = re.findall(r'route!~"([^"]+)"', text)

    assert left_out
    assert all({*found.split("|")} == paths for found in left_out)


def test_each_layer_that_rejects_has_an_alert() -> None:
    assert {*REJECTIONS} == REJECTING


# The queries


class Prometheus:
    """A Prometheus with the files of a service, which asks once a second and doesn't wait."""

    def __init__(self, folder: Path, service: Path, target: str) -> None:
        config = read_yaml(service / "ops/prometheus.yml")
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
        rules = (service / "ops/alerts.yml").read_text("utf-8")
        hurried = re.sub(r"^( +for:) .*$", r"\1 1s", rules, flags=re.MULTILINE)
        (folder / "alerts.yml").write_text(hurried, "utf-8")
        self.address = f"127.0.0.1:{free_port()}"
        options = [
            word.replace("=/prometheus", f"={folder}/data").replace("/etc/prometheus", str(folder))
            for word in containers(service)["prometheus"]["command"]
        ]
        listen = f"--web.listen-address={self.address}"
        self.command = (needed("prometheus"), *options, listen)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression that have a number."""
        url = f"http://{self.address}/api/v1/query?query={quote(expression)}"
        with build_opener(ProxyHandler({})).open(url, timeout=SECONDS) as response:
            answer = json.load(response)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return [series for series in found if not math.isnan(float(series["value"][1]))]

    def fires(self, alert: str) -> bool:
        return bool(self.query(f'ALERTS{{alertname="{alert}",alertstate="firing"}}'))


class Client:
    """Sends requests to the service, each kind from an IP address of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def send(
        self, path: str, method: str = "GET", *, body: str | None = None, **headers: str
    ) -> int:
        sent = {
            "Host": "localhost",
            "Content-Type": "application/json",
            "X-Environment": "test",
            "X-Forwarded-For": "203.0.113.1",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        connection = HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()


def drive(client: Client, service: Path, turn: int) -> None:
    """Send requests of which each layer that can reject rejects one."""
    address = f"203.0.113.{turn + 2}"
    user = jwt.encode({"sub": f"user-{turn}", "exp": time.time() + 600}, KEY, "HS256")
    signed = {"Authorization": f"Bearer {user}", "X_Forwarded_For": address}
    order = '{"item": "onion", "quantity": %d}'
    client.send("/orders/1", X_Forwarded_For=address)
    client.send("/nowhere", X_Forwarded_For=address)
    client.send("/boom", X_Forwarded_For=address)
    client.send("/orders/1", Host="evil.example")
    client.send("/orders/1", Host="api.test")
    client.send("/orders/1", X_Forwarded_For="198.51.100.1")
    client.send("/orders/1", User_Agent="LegacyApp/1.4")
    client.send("/orders/1", X_Environment="other")
    with ThreadPoolExecutor(2) as pool:  # one takes the only slot
        for _ in range(2):
            pool.submit(client.send, "/slow", X_Forwarded_For=address)
    client.send("/orders", "POST", body=" " * 2000, X_Forwarded_For=address)
    client.send("/orders", "POST", body="{}", Sec_Fetch_Site="cross-site", X_Forwarded_For=address)
    client.send("/orders/1", Authorization="Bearer x.y.z", X_Forwarded_For=address)
    client.send("/orders", "POST", body=order % 1, Idempotency_Key="one", **signed)
    client.send("/orders", "POST", body=order % 2, Idempotency_Key="one", **signed)
    for _ in range(3):
        client.send("/orders/1", **signed)
    for _ in range(10):
        client.send("/orders/1")
    (service / "maintenance").touch()
    client.send("/orders/1", X_Forwarded_For=address)
    (service / "maintenance").unlink()


@contextmanager
def running(*command: str, cwd: Path, output: Path, **environment: str) -> Generator[int]:
    """Run a program until the end of the block, and give its number."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env={**kept, **environment}, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            yield process.pid
        finally:
            process.kill()
            process.wait()


def patiently(seconds: float = SECONDS) -> Iterator[None]:
    """Yield until the time is over."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        yield
        time.sleep(0.2)


def queries(service: Path) -> list[str]:
    """Return every expression of the alerts and the dashboard."""
    groups = read_yaml(service / "ops/alerts.yml")["groups"]
    found = [rule["expr"] for group in groups for rule in group["rules"]]
    # With `bool` a comparison returns what it compares, above the threshold or not.
    found = [re.sub(r" (>|<|==) (?=[\d(a-z])(?!0\))", r" \1 bool ", text) for text in found]
    dashboard = json.loads((service / "ops/dashboard.json").read_text("utf-8"))
    return found + [
        target["expr"].replace("$job", JOB).replace("$__rate_interval", "1m")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


class Redis:
    """The Redis of compose.yaml, on a port of this machine."""

    def __init__(self, folder: Path, service: Path) -> None:
        self.port = free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        _, file, *options = containers(service)["redis"]["command"]
        mounted = {
            inside: service / outside
            for outside, inside, _ in (
                volume.split(":")
                for volume in containers(service)["redis"]["volumes"]
                if volume.startswith("./")
            )
        }
        options = [option.replace("${REDIS_PASSWORD}", PASSWORD) for option in options]
        here = ("--port", str(self.port), "--bind", "127.0.0.1")
        self.command = (needed("redis-server"), str(mounted[file]), *options, *here)
        self.folder = folder

    @contextmanager
    def running(self) -> Generator[int]:
        """Run until the end of the block, and give the number of the process."""
        with running(*self.command, cwd=self.folder, output=self.folder / "redis.log") as pid:
            for _ in patiently():
                if self.ask("PING") == "PONG":
                    break
            yield pid

    def ask(self, *command: str) -> str:
        """Ask as the health check does."""
        cli = (needed("redis-cli"), "-p", str(self.port), *command)
        return run(*cli, cwd=self.folder, REDISCLI_AUTH=PASSWORD).stdout.strip()


def containers(service: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_yaml(service / "compose.yaml")["services"]
    return found


def command_of_image(service: Path, port: int) -> list[str]:
    """Return the command of the Dockerfile, for a port of this machine."""
    dockerfile = (service / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    words: list[str] = json.loads(re.findall(r"^CMD (.+)$", dockerfile, re.MULTILINE)[-1])
    here = {"0.0.0.0": "127.0.0.1", "8000": str(port)}  # noqa: S104 - it is taken away
    return [sys.executable, "-m", *(here.get(word, word) for word in words)]


def test_each_query_returns_series_and_real_losses_fire(service: Path, tmp_path: Path) -> None:
    port = free_port()
    with (service / "app/main.py").open("a", encoding="utf-8") as file:
        file.write(SLOW)
    redis = Redis(tmp_path, service)
    environment = {**SETTINGS, "STORAGE_URL": redis.url}
    prometheus = Prometheus(tmp_path, service, f"127.0.0.1:{port}")
    client = Client(port)
    with ExitStack() as stack:
        pid = stack.enter_context(redis.running())
        log = tmp_path / "service.log"
        command = command_of_image(service, port)
        stack.enter_context(running(*command, cwd=service, output=log, **environment))
        log = tmp_path / "prometheus.log"
        stack.enter_context(running(*prometheus.command, cwd=tmp_path, output=log))

        everything = queries(service)
        lost = [text for text in everything if 'status="503"' in text]
        lacking = [text for text in everything if text not in lost]
        for turn, _ in enumerate(patiently()):
            with suppress(OSError):
                drive(client, service, turn)
                lacking = [text for text in lacking if not prometheus.query(text)]
            if not lacking:
                break
        assert lacking == []
        counted = prometheus.query("count by (layer) (http_refusals_total)")
        assert {series["metric"]["layer"] for series in counted} == REJECTING

        alerts = {"StorageLost", "TrustedHostRejects"}
        assert {alert for alert in alerts if prometheus.fires(alert)} == set()
        os.kill(pid, signal.SIGKILL)
        silent = set(alerts)
        for turn, _ in enumerate(patiently()):
            drive(client, service, 100 + turn)
            for _ in range(20):
                client.send("/orders/1", Host="orders.test")
            lost = [text for text in lost if not prometheus.query(text)]
            silent = {alert for alert in alerts if not prometheus.fires(alert)}
            if not lost and not silent:
                break
        assert lost == []
        assert silent == set()
        assert not prometheus.fires("NotScraped")
