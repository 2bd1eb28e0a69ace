"""The routes. This file is yours: replace these examples by your own."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

router = APIRouter()


class Order(BaseModel):
    """What a client orders."""

    item: str = Field(min_length=1, max_length=100)
    quantity: int = Field(ge=1, le=1000)


@router.get("/", include_in_schema=False)
async def index(request: Request) -> dict[str, str]:
    """Greet visitors of the service's address."""
    return {
        "message": "The service is running. Its routes are in app/routes.py.",
        "routes": f"{request.base_url}docs",
        "layers": "docs/middleware.md",
    }


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Respond to health probes."""
    return {"status": "ok"}


@router.get("/orders/{order_id}")
async def read_order(order_id: int) -> dict[str, int]:
    """Show a path parameter; `/orders/abc` gets 422."""
    return {"order_id": order_id}


@router.post("/orders", status_code=201)
async def create_order(order: Order) -> Order:
    """Show a typed body."""
    return order


@router.get("/boom", include_in_schema=False)
async def boom() -> None:
    """Raise on purpose, to show what clients see of an unhandled exception."""
    msg = "raised on purpose"
    raise RuntimeError(msg)
