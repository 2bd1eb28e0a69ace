"""Whether the page of another origin that sent the request can read the response."""

from collections.abc import Mapping
from typing import Final

from .recorder import Passage

_REDIRECTION: Final = 300


def browser_sees(
    client: Passage, *, scheme: str, responder: str, is_outside: bool, cors: Mapping[str, str]
) -> str | None:
    """
    Return a sentence, None for a request that no page of another origin sends.

    `is_outside` says whether `responder` stands outside the layer cors, and `cors` are the
    settings that list origins, none where the layer isn't there.
    """
    sent = dict(client.request["headers"])
    origin = sent.get(b"origin", b"").decode("latin-1")
    if not origin or origin == f"{scheme}://{sent.get(b'host', b'').decode('latin-1')}":
        return None
    head = client.head or {"status": 500, "headers": []}
    allowed = dict(head["headers"]).get(b"access-control-allow-origin", b"").decode("latin-1")
    reason = "" if allowed in {origin, "*"} else _reason(responder, is_outside, cors)
    wanted = sent.get(b"access-control-request-method", b"").decode("latin-1")
    if client.request["method"] != "OPTIONS" or not wanted:
        can = "can't" if reason else "can"
        return f"A page on {origin} {can} read this response{reason and ': '}{reason or '.'}"
    if not reason and head["status"] >= _REDIRECTION:
        reason = f"the preflight must get 2xx, not {head['status']}."
    sends = "doesn't send" if reason else "sends"
    return (
        f"The browser {sends} the {wanted} of the page on {origin}{reason and ': '}{reason or '.'}"
    )


def _reason(responder: str, is_outside: bool, cors: Mapping[str, str]) -> str:  # noqa: FBT001
    missing = "it has no Access-Control-Allow-Origin"
    if not cors:
        return f"{missing}. The layer cors adds it, and there is none."
    if is_outside:
        return f"{missing}. cors adds it, but runs inside {responder} and never saw the response."
    values = [f"{name}={value}" if value else f"{name} is empty" for name, value in cors.items()]
    return f"{missing}. cors doesn't allow this origin: {', '.join(values)}."
