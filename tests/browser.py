"""What tests in a browser need: servers of a service, pages of other origins, Chromium."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.request import urlopen

import pytest

from .support import ROOT, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

CHROMIUM_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_CHROMIUM_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SECONDS: Final = 30


def needed(name: str, found: object) -> None:
    """Skip where a tool is missing, but in CI, where a skipped test would look like a pass."""
    if not found:
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing(f"{name} is not installed")


class Service:
    """A rendered service that a server of its own runs."""

    def __init__(self, port: int, log: Path) -> None:
        self.origin: Final = f"http://localhost:{port}"
        self.socket: Final = f"ws://localhost:{port}/ws"
        self.port: Final = port
        self.log: Final = log

    def lines(self, path: str, *, count: int) -> list[dict[str, Any]]:
        """Return the lines of the access log for `path`; the last may come after its answer."""
        deadline = time.monotonic() + _SECONDS
        found: list[dict[str, Any]] = []
        while len(found) < count and time.monotonic() < deadline:
            text = self.log.read_text("utf-8").splitlines(keepends=True)
            lines = [json.loads(line) for line in text if line[0] == "{" and line[-1] == "\n"]
            found = [line for line in lines if line.get("path") == path]
            time.sleep(0.02)
        return found

    def get(self, path: str) -> Any:
        """Ask without a browser."""
        return json.loads(self.read(path))

    def read(self, path: str) -> str:
        with urlopen(self.origin + path, timeout=10) as response:  # noqa: S310 - always http
            text: str = response.read().decode()
            return text


class Servers:
    """Starts servers of the service in a folder: `servers(settings, "remove", "cors", "")`."""

    def __init__(self, folder: Path, script: IO[str]) -> None:
        self._folder = folder
        self._script = script

    def __call__(self, settings: Mapping[str, str], *spoilt: str) -> Service:
        port = free_port()
        service = Service(port, self._folder / f"server-{port}.log")
        job = {"port": port, "log": str(service.log), "settings": settings, "spoilt": spoilt}
        print(json.dumps(job), file=self._script, flush=True)
        deadline = time.monotonic() + _SECONDS
        while not _answers(service):
            if time.monotonic() > deadline:
                pytest.fail(f"The service did not start:\n{service.log.read_text('utf-8')}")
            time.sleep(0.05)
        return service


@contextmanager
def servers_of(folder: Path) -> Generator[Servers]:
    # Of the environment only what finds programs: a setting of the developer's must not get in.
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.browser_server", folder],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        yield Servers(folder, process.stdin)


def _answers(service: Service) -> bool:
    try:
        service.get("/healthz")
    except OSError:
        return False
    return True


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>a page</title><link rel=icon href=data:,>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any, **__: Any) -> None:
        """Say nothing."""


@contextmanager
def pages(host: str) -> Generator[str]:
    """Serve an empty page on an origin of its own and yield the origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://{host}:{server.server_port}"
        server.shutdown()


@contextmanager
def chromium() -> "Generator[Browser]":
    found = next((path for name in _CHROMIUM_NAMES if (path := shutil.which(name))), None)
    needed("Chromium", found)
    playwright = None
    with suppress(ModuleNotFoundError):
        playwright = importlib.import_module("playwright.sync_api")
    needed("playwright", playwright)
    assert playwright
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


_FETCH: Final = """
async ([url, options]) => {
    try {
        const answer = await fetch(url, options);
        return {
            status: answer.status,
            type: answer.type,
            headers: Object.fromEntries(answer.headers),
            text: await answer.text(),
        };
    } catch (error) {
        return {error: String(error)};
    }
}
"""


def fetch(page: "Page", url: str, **options: Any) -> Any:
    """Let the page call `fetch`; return what its script can read, or the error that it gets."""
    return page.evaluate(_FETCH, [url, options])


_SOCKET: Final = """
([url, protocols, text]) => new Promise(resolve => {
    const socket = new WebSocket(url, protocols);
    let answer = null;
    socket.onopen = () => socket.send(text);
    socket.onmessage = event => { answer = JSON.parse(event.data); };
    socket.onclose = event => resolve({answer, code: event.code, protocol: socket.protocol});
})
"""


def talk(page: "Page", url: str, text: str = "hello", protocols: tuple[str, ...] = ()) -> Any:
    """Let the page open a websocket, say `text` and wait for the end; return what it got."""
    return page.evaluate(_SOCKET, [url, list(protocols), text])


_CDN: Final = re.compile(r"https://cdn\.jsdelivr\.net/npm/([^/@]+@[^/]+)/([^\"]+)")
_FONT: Final = "https://fonts.gstatic.com/s/roboto/v1/roboto.woff2"
_FACE: Final = f"@font-face {{ font-family: Roboto; src: url({_FONT}) format('woff2'); }}"
_IMAGE: Final = "<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>"


class Network:
    """
    Replaces the networks that the documentation pages load from.

    The files of the CDN are those that it would send: the newest of the range that a page names,
    from the npm registry. npm verifies and caches them.
    """

    def __init__(self, *documentation: str) -> None:
        npm = shutil.which("npm")
        needed("npm", npm)
        found = {
            match[0]: match.groups() for page in documentation for match in _CDN.finditer(page)
        }
        packages = dict.fromkeys(package for package, _ in found.values())
        with TemporaryDirectory() as folder:
            command = [str(npm), "pack", "--silent", "--prefer-offline", *packages]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
            archives = dict(zip(packages, done.stdout.split(), strict=True))
            self._files = {
                url: _unpacked(Path(folder) / archives[package], name)
                for url, (package, name) in found.items()
            }

    def answer(self, route: "Route") -> None:
        url = route.request.url
        if url in self._files:
            kind = "text/css" if url.endswith(".css") else "text/javascript"
            route.fulfill(body=self._files[url], content_type=kind)
        elif url.startswith("https://fonts.googleapis.com/"):
            route.fulfill(body=_FACE, content_type="text/css")
        elif url == _FONT:
            route.fulfill(body=b"", content_type="font/woff2")
        else:
            route.fulfill(body=_IMAGE, content_type="image/svg+xml")


def _unpacked(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        content = tar.extractfile(f"package/{name}")
        assert content is not None
        return content.read()
