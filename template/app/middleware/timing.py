"""Timing: reports in a header how long the service took."""

from time import perf_counter
from typing import Final

from starlette.types import Message

from .core.exchange import Addition, Exchange
from .core.headers import Clash, HeaderRule
from .core.layer import HTTP, Layer

_TIMES: Final = HeaderRule({b"server-timing": Clash.BOTH, b"x-process-time": Clash.REPLACE})


class TimingMiddleware(Layer):
    """
    Add `Server-Timing: app;dur=` in milliseconds and `X-Process-Time` in seconds.

    Both measure until the response starts, since headers can't be sent later. A Server-Timing
    that an endpoint sets is kept beside it (W3C Server Timing). Browsers show it to pages of other
    origins only with Timing-Allow-Origin. Websockets pass through.
    """

    scopes = HTTP
    once = True

    def head(self, exchange: Exchange, message: Message) -> Addition:  # noqa: ARG002
        seconds = perf_counter() - exchange.started_at
        times = [
            (b"server-timing", b"app;dur=%.3f" % (seconds * 1000)),
            (b"x-process-time", b"%.6f" % seconds),
        ]
        return _TIMES, times
