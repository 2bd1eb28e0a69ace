"""Request ID: gives each request an ID, for its response and its log lines."""

import re
from binascii import hexlify
from os import urandom
from typing import Annotated, Any, Final

from pydantic import AfterValidator
from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.headers import Clash, HeaderRule
from .core.layer import Layer
from .core.setting_types import HeaderName, own_header
from .log import begin_fields

_ACCEPTED: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestIdMiddleware(Layer):
    """
    Give each request an ID, and send it in the response as `header`.

    A client's own ID is kept if it has 1 to 128 characters of `[A-Za-z0-9._-]`, so that it can't
    forge a log line. Any other, or one that is sent twice, is replaced. Endpoints read it from
    `request.state.request_id`. A websocket gets it in the response to its handshake.
    """

    once = True

    def __init__(self, app: ASGIApp, *, header: str) -> None:
        super().__init__(app)
        self.header = header.lower().encode("ascii")
        self.rule = HeaderRule({self.header: Clash.REPLACE})

    def enter(self, exchange: Exchange) -> None:
        value = exchange.headers.get(self.header)
        if value is None or not _ACCEPTED.fullmatch(value):
            value = hexlify(urandom(16))
        exchange.add(self.rule, [(self.header, value)])
        exchange.state["request_id"] = request_id = value.decode("ascii")
        # After an exception the ID stays bound, so that the server's log line has it.
        exchange.at_exit(begin_fields(request_id=request_id))


def check_id_header(settings: Any) -> None:
    """
    Reject the header of a secret, since an ID is logged and sent back.

    Raises:
        ValueError: with a message that says what to set.

    """
    if settings.request_id_header.lower() == getattr(settings, "api_key_header", "").lower():
        msg = "REQUEST_ID_HEADER must not be API_KEY_HEADER: an ID is logged and sent back"
        raise ValueError(msg)


RequestIdHeader = Annotated[HeaderName, AfterValidator(own_header("X-Request-ID"))]
