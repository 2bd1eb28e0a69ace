"""Orders that popular generators ship, in our layers: outermost first."""

from typing import Final, NamedTuple


class WrongOrder(NamedTuple):
    """An order, the first rule that it breaks, and what comes of it."""

    layers: tuple[str, ...]
    broken: tuple[str, str]
    seen: str


WRONG_ORDERS: Final = (
    WrongOrder(
        ("session", "metrics", "cors", "request_id"),
        ("request_id", "cors"),
        "Preflights carry no request id, and no log line can be found by one.",
    ),
    WrongOrder(
        ("request_id", "security_headers", "rate_limit", "cors", "idempotency"),
        ("cors", "rate_limit"),
        "A page can't read the 429: the browser reports a CORS failure. Preflights spend quota.",
    ),
    WrongOrder(
        ("request_id", "access_log", "security_headers", "trusted_host", "cors"),
        ("cors", "trusted_host"),
        "A mistake in ALLOWED_HOSTS looks like a mistake in the CORS settings.",
    ),
    WrongOrder(
        ("authentication", "timing", "access_log", "rate_limit", "security_headers", "cors"),
        ("security_headers", "rate_limit"),
        "Nothing that is refused is readable or hardened, and passwords are guessed without limit.",
    ),
    WrongOrder(
        ("metrics", "https_redirect", "cors", "trusted_host"),
        ("cors", "https_redirect"),
        "Preflights get a redirect, which browsers don't follow.",
    ),
    WrongOrder(
        ("cors", "https_redirect", "trusted_host"),
        ("trusted_host", "https_redirect"),
        "`Host: evil.example` is redirected to https://evil.example: an open redirect.",
    ),
    WrongOrder(
        ("error_handler", "request_id", "cors"),
        ("request_id", "error_handler"),
        "The 500 has neither CORS headers nor the id that support asks for.",
    ),
    WrongOrder(
        ("authentication", "cors"),
        ("cors", "authentication"),
        "A preflight never carries credentials, so every preflight gets 401.",
    ),
    WrongOrder(
        ("authentication", "user_rate_limit", "rate_limit"),
        ("rate_limit", "authentication"),
        "Wrong passwords cost nothing, since the limiter sees only who got in.",
    ),
    WrongOrder(
        ("user_rate_limit", "authentication"),
        ("authentication", "user_rate_limit"),
        "The limiter knows no user yet, so nobody is ever limited.",
    ),
    WrongOrder(
        ("access_log", "compression", "timing"),
        ("timing", "compression"),
        "The reported time lacks the time of compression.",
    ),
    WrongOrder(
        ("trusted_host", "https_redirect", "proxy_headers"),
        ("proxy_headers", "https_redirect"),
        "Behind a proxy that ends TLS, every request is redirected to itself for ever.",
    ),
)
