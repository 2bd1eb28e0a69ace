"""Cases of the alerts, as `promtool test rules` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

JOB: Final = "orders"
_A_DAY: Final = 1440
_TWO_DAYS: Final = 2 * _A_DAY


def _of(status: int, route: str = "/orders") -> str:
    return f'http_requests_total{{method="GET",route="{route}",status="{status}"}}'


_OK: Final = _of(200)


def _failed(per_minute: int, minutes: int = 20, status: int = 500) -> dict[str, str]:
    return {
        _OK: f"0+{100 - per_minute}x{minutes}",
        _of(status): f"0+{per_minute}x{minutes}",
    }


def _rejected(layer: str, *per_minute_and_minutes: tuple[int, int]) -> dict[str, str]:
    """Return 100 requests a minute, some of which a layer rejects."""
    rejected = " ".join(_growth(per_minute_and_minutes))
    everything = sum(minutes for _, minutes in per_minute_and_minutes)
    return {
        _OK: f"0+100x{everything}",
        f'http_refusals_total{{layer="{layer}",status="400"}}': rejected,
    }


def _growth(steps: tuple[tuple[int, int], ...]) -> list[str]:
    total, parts = 0, ["0"]
    for per_minute, minutes in steps:
        parts.append(f"{total + per_minute}+{per_minute}x{minutes - 1}")
        total += per_minute * minutes
    return parts


def _slow(timeout: int, most: str) -> dict[str, str]:
    """Return requests of which all end within `most` seconds, and half within 5."""
    name = 'http_request_duration_seconds_bucket{method="GET",route="/orders",le="%s"}'
    return {
        "http_request_timeout_seconds": f"{timeout}x30",
        name % "5.0": "0+50x30",
        name % most: "0+100x30",
        name % "+Inf": "0+100x30",
    }


@dataclass(frozen=True)
class Case:
    """Series as they come, a value a minute, and the labels of the alert that fires at the end."""

    alert: str
    series: Mapping[str, str]
    minutes: int
    labels: Mapping[str, str] | None = None

    def test(self, annotations: Mapping[str, Any], severity: str) -> dict[str, Any]:
        fired = {
            "exp_labels": {"job": JOB, "severity": severity, **(self.labels or {})},
            "exp_annotations": annotations,
        }
        return {
            "interval": "1m",
            "input_series": [
                {"series": _with_target(name), "values": values}
                for name, values in self.series.items()
            ],
            "alert_rule_test": [
                {
                    "eval_time": f"{self.minutes}m",
                    "alertname": self.alert,
                    "exp_alerts": [] if self.labels is None else [fired],
                }
            ],
        }


def _with_target(series: str) -> str:
    name, _, labels = series.partition("{")
    target = f'job="{JOB}"' if "instance=" in labels else f'job="{JOB}",instance="a:8000"'
    return f"{name}{{{target}}}" if not labels else f"{name}{{{target},{labels}"


def _in_b(series: str) -> str:
    return series.replace("{", '{instance="b:8000",')


_INSTANCE: Final = {"instance": "a:8000"}

CASES: Final = {
    "down": Case("NotScraped", {"up": "1 0x10"}, 5, _INSTANCE),
    "unknown to Prometheus": Case("NotScraped", {}, 5, {}),
    "up": Case("NotScraped", {"up": "1x10"}, 5),
    "up and down": Case("NotScraped", {"up": "1 0 1 0 1 0 1 0 1 0 1"}, 10, _INSTANCE),
    "restarted": Case("NotScraped", {"up": "1 0 1x10"}, 5),
    "errors": Case("ErrorRatio", _failed(8), 15, {}),
    "few errors": Case("ErrorRatio", _failed(3), 15),
    "errors for a short time": Case("ErrorRatio", _failed(50, 3), 4),
    "maintenance": Case(
        "ErrorRatio", {**_failed(50, status=503), **_rejected("maintenance", (50, 20))}, 15
    ),
    "errors beside an instance in maintenance, which rejects its probes": Case(
        "ErrorRatio",
        {
            **_failed(10),
            _in_b(_of(503, "<unmatched>")): "0+120x20",
            _in_b('http_refusals_total{layer="maintenance",status="503"}'): "0+120x20",
        },
        15,
        {},
    ),
    "errors of few requests, among many probes": Case(
        "ErrorRatio",
        {_of(200, "/healthz"): "0+100x20", _of(200, "/metrics"): "0+4x20", _of(500): "0+6x20"},
        15,
        {},
    ),
    "errors of probes": Case("ErrorRatio", {_OK: "0+100x20", _of(503, "/readyz"): "0+50x20"}, 15),
    "one error in the night": Case("ErrorRatio", {_OK: "0+1x20", _of(500): "0x5 1x15"}, 10),
    "slow": Case("SlowRequests", _slow(12, "10.0"), 25, {"route": "/orders"}),
    "slow beyond the last bucket": Case(
        "SlowRequests", _slow(60, "10.0"), 25, {"route": "/orders"}
    ),
    "not slow for its timeout": Case("SlowRequests", _slow(30, "7.5"), 25),
    "started again and again": Case(
        "Restarts", {"process_start_time_seconds": "1 2 3 4 4 4"}, 5, _INSTANCE
    ),
    "started once more": Case("Restarts", {"process_start_time_seconds": "1 1 2 2 2 2"}, 5),
    "not ready": Case("NotReady", {"service_ready": "1 0x10"}, 5, _INSTANCE),
    "not ready for a moment": Case("NotReady", {"service_ready": "1 0 1x10"}, 3),
    "Redis lost": Case("StorageLost", {"storage_up": "1 1 0x10"}, 5, {}),
    "Redis lost for a moment": Case("StorageLost", {"storage_up": "1 0 1x10"}, 3),
    "Redis lost again and again": Case(
        "StorageLost", {"storage_up": "1 0 1 0 1 0 1 0 1 0 1"}, 10, {}
    ),
    "calls wait": Case("ThreadPoolFull", {"threadpool_waiting_calls": "0 3x10"}, 5, _INSTANCE),
    "calls wait for a moment": Case("ThreadPoolFull", {"threadpool_waiting_calls": "0 3 0 3 0"}, 4),
    "many in progress": Case(
        "RequestsPileUp",
        {'http_requests_in_progress{method="GET"}': f"5x{_TWO_DAYS} 60x30"},
        _TWO_DAYS + 20,
        _INSTANCE,
    ),
    "many in progress, as usual": Case(
        "RequestsPileUp", {'http_requests_in_progress{method="GET"}': f"60x{_TWO_DAYS}"}, _TWO_DAYS
    ),
    "many in progress, as usual, in a new instance": Case(
        "RequestsPileUp",
        {
            'http_requests_in_progress{instance="a:8000",method="GET"}': f"60x{_TWO_DAYS} stale",
            'http_requests_in_progress{instance="b:8000",method="GET"}': f"_x{_TWO_DAYS} 60x30",
        },
        _TWO_DAYS + 20,
    ),
    "websockets": Case(
        "RequestsPileUp", {'http_requests_in_progress{method="WEBSOCKET"}': "600x10"}, 5
    ),
    "a jump": Case(
        "TrustedHostRejects",
        _rejected("trusted_host", (6, _TWO_DAYS), (60, 30)),
        _TWO_DAYS + 20,
        {"layer": "trusted_host"},
    ),
    "as usual": Case("TrustedHostRejects", _rejected("trusted_host", (20, _TWO_DAYS)), _TWO_DAYS),
    "a jump that lasts": Case(
        "TrustedHostRejects",
        {
            _OK: f"0+100x{2 * _TWO_DAYS}",
            'http_refusals_total{layer="trusted_host",status="400"}': f"_x{_TWO_DAYS} 0+30x1500",
        },
        _TWO_DAYS + _A_DAY + 20,
        {"layer": "trusted_host"},
    ),
    "more than half, as usual": Case(
        "TrustedHostRejects",
        _rejected("trusted_host", (60, _TWO_DAYS)),
        _TWO_DAYS,
        {"layer": "trusted_host"},
    ),
    "a scanner in the night": Case(
        "TrustedHostRejects",
        {_OK: "0+5x30", 'http_refusals_total{layer="trusted_host",status="400"}': "0+1x30"},
        20,
    ),
    # Without requests there is no share, which must not hide the next jump.
    "a jump after silence": Case(
        "TrustedHostRejects",
        {
            _OK: f"0x{_TWO_DAYS} 100+100x30",
            'http_refusals_total{layer="trusted_host",status="400"}': f"0x{_TWO_DAYS} 60+60x30",
        },
        _TWO_DAYS + 20,
        {"layer": "trusted_host"},
    ),
}


def rejections(alert: str, layer: str, share: float) -> dict[str, Case]:
    """Return a case above and a case below the threshold of a layer."""
    above, below = round(share * 150), int(share * 50)
    return {
        f"{layer} above": Case(alert, _rejected(layer, (above, 30)), 25, {"layer": layer}),
        f"{layer} below": Case(alert, _rejected(layer, (below, 30)), 25),
    }
