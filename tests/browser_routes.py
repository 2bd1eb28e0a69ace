"""The routes of the service that a browser visits: copied over `app/routes.py`."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from .middleware.authentication import CurrentUser  # type: ignore[import-not-found]

router = APIRouter()
visits: list[str | None] = []


class Order(BaseModel):
    item: str
    quantity: int = 1


def session_of(connection: Request | WebSocket) -> dict[str, Any]:
    # Reading `connection.session` fails where that layer is absent.
    session: dict[str, Any] = connection.scope.get("session", {})
    return session


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/orders/{order_id}")
async def read_order(order_id: int) -> dict[str, int]:
    return {"order_id": order_id}


@router.post("/orders", status_code=201)
async def create_order(order: Order, response: Response) -> dict[str, Any]:
    visits.append(order.item)
    response.headers["Location"] = f"/orders/{len(visits)}"
    return {**order.model_dump(), "number": len(visits)}


@router.get("/me")
async def read_user(user: CurrentUser) -> dict[str, str]:
    return {"id": user.id}


@router.get("/large")
async def large() -> list[str]:
    return ["an onion has layers"] * 500


@router.post("/upload")
async def upload(request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}


@router.get("/boom")
async def boom() -> None:
    msg = "raised on purpose"
    raise RuntimeError(msg)


@router.get("/slow")
async def slow() -> None:
    await asyncio.sleep(20)


@router.post("/login")
async def login(request: Request, name: str) -> dict[str, str]:
    request.session.update(name=name, user=name)
    return {"name": name}


@router.get("/visit")
async def visit(request: Request) -> dict[str, str | None]:
    """Return the user, and keep it for `/visits`: a foreign page can't read the response."""
    name = session_of(request).get("name")
    visits.append(name)
    return {"name": name}


@router.post("/act")
async def act(request: Request) -> dict[str, str]:
    """Change something; a plain form of any page can send this request."""
    visits.append(f"acted as {session_of(request).get('name')}")
    return {"done": "yes"}


@router.get("/visits")
async def all_visits() -> list[str | None]:
    return visits


@router.get("/page")
async def page() -> HTMLResponse:
    return HTMLResponse("<title>still</title><script>document.title = 'ran'</script>")


@router.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    user = getattr(websocket.state, "user", None)
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[0] if offered else None)
    text = await websocket.receive_text()
    name = session_of(websocket).get("name")
    await websocket.send_json({"text": text, "name": name, "user": user and user.id})
    await websocket.close()
