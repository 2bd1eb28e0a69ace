"""Whatever ends a request: it is logged once, and nothing that something still uses is freed."""

import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from copier import run_copy

from .serving import SECONDS, Server, patiently, serving, with_main
from .support import TESTS

ADDED: Final = """

from tests.middleware.probe import router as probe
from .ending_routes import router as endings

app.include_router(probe)
app.include_router(endings)
"""
GRACE: Final = ("--timeout-graceful-shutdown", "1")


@pytest.fixture(scope="module", params=["everything", "no error handler"])
def service(
    request: pytest.FixtureRequest,
    everything: Path,
    template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("endings") / "service"
    if request.param == "everything":
        shutil.copytree(everything, folder)
    else:
        data = {"layers": ["request_id", "access_log"]}
        run_copy(str(template), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    shutil.copy2(TESTS / "ending_routes.py", folder / "app")
    return with_main(folder, ADDED)


@pytest.fixture
def notes(service: Path) -> Path:
    """Return where the routes write down what happened, empty."""
    file = service / "notes.txt"
    file.write_text("")
    return file


@pytest.fixture(scope="module")
def server(service: Path) -> Iterator[Server]:
    with serving(service, REQUEST_TIMEOUT="1") as server:
        yield server


UPLOADS: Final = {
    "a file": (
        "/file",
        "multipart/form-data; boundary=x",
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nleek',
    ),
    "a stream": ("/probe/upload", "application/octet-stream", "leek"),
    "a typed body": ("/probe/items", "application/json", "{"),
}


@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS)
def test_a_client_that_leaves_in_the_middle_of_an_upload_is_a_499(
    upload: tuple[str, str, str], server: Server
) -> None:
    path, media_type, start = upload
    request_id = f"upload{path.replace('/', '.')}"

    head = f"Content-Type: {media_type}\r\nContent-Length: 5000\r\n"
    with closing(_asked(server, f"POST {path}", request_id, head, start)):
        time.sleep(0.3)

    (line,) = server.lines(request_id)
    assert (line["status"], line["bytes"]) == (499, 0)
    assert not server.incidents(request_id)


def test_a_client_that_leaves_before_a_websocket_is_accepted_is_no_error(server: Server) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    for _ in range(5):
        with closing(_asked(server, "GET /late", "early", upgrade + key)):
            time.sleep(0.05)

    assert [line["status"] for line in server.lines("early", 5)] == [499] * 5
    assert not server.incidents("early")


@pytest.mark.parametrize("path", ["/sync", "/async", "/sync-stream", "/async-stream"])
def test_what_a_request_uses_outlasts_its_client(path: str, server: Server, notes: Path) -> None:
    for number in range(4):
        with closing(_asked(server, f"GET {path}", f"left{path.replace('/', '.')}{number}")):
            time.sleep(0.1)

    _assert_all_is_given_back(server)
    _assert_closed_last(notes)


def test_a_server_that_stops_frees_nothing_that_is_used(service: Path, notes: Path) -> None:
    """It cancels by `Task.cancel`, which breaks the shields of AnyIO by itself."""
    with serving(service, *GRACE, REQUEST_TIMEOUT="30") as server:
        paths = ("/sync?seconds=3", "/async?seconds=30", "/sync-stream", "/async-stream", "/events")
        opened = [_asked(server, f"GET {path}", f"stop{at}") for at, path in enumerate(paths)]
        for stream in opened[2:]:
            stream.recv(1)
        server.process.terminate()
        server.process.wait(SECONDS)
        for connection in opened:
            connection.close()
        lines = [server.lines(f"stop{at}") for at in range(len(paths))]

    statuses = [[line["status"] for line in found] for found in lines]
    # Where nothing responds to a cancelled request, the first waits for its thread.
    responds = (service / "app/middleware/error_handler.py").exists()
    assert statuses[0] == [503 if responds else 200]
    assert statuses[1] in ([499], [503])
    assert statuses[2:] == [[499]] * 3
    _assert_closed_last(notes)
    assert notes.read_text().count("async closed") >= 2


@pytest.mark.parametrize("service", ["everything"], indirect=True)
def test_requests_that_timed_out_keep_the_cap_of_the_threads(server: Server, notes: Path) -> None:
    with ThreadPoolExecutor(200) as clients:
        asked = [clients.submit(server.request, "/probe/slow-sync?seconds=3") for _ in range(200)]
        time.sleep(2)
        lent = server.request("/lent")
        assert {reply.result().status for reply in asked} == {504}
    assert '"threads":40' in lent.body

    with ThreadPoolExecutor(4) as clients:
        late = clients.map(server.request, ["/sync", "/async"] * 2)
        assert {reply.status for reply in late} == {504}
    _assert_all_is_given_back(server)
    _assert_closed_last(notes)


def _asked(
    server: Server, target: str, request_id: str, head: str = "", body: str = ""
) -> socket.socket:
    """Send the start of a request, and leave the connection open."""
    connection = socket.create_connection(("127.0.0.1", server.port), SECONDS)
    sent = f"{target} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {request_id}\r\n{head}\r\n{body}"
    connection.sendall(sent.encode())
    return connection


def _assert_all_is_given_back(server: Server) -> None:
    lent = ""
    for _ in patiently():
        lent = server.request("/lent").body
        if lent == '{"sync":0,"async":0,"threads":0}':
            return
    pytest.fail(lent)


def _assert_closed_last(notes: Path) -> None:
    """No session is used after it was closed: as many threads end as use one."""
    lines = [line for line in notes.read_text().splitlines() if line.startswith("sync")]
    assert not lines or lines[-1] == "sync closed"
