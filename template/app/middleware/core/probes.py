"""Probes: requests of load balancers and orchestrators, refused for nothing but their address."""

from collections.abc import Collection

from starlette.types import Scope

from .scope import route_path


def is_probe(scope: Scope, probe_paths: Collection[str]) -> bool:
    """Say whether this is a request for an exact path of `PROBE_PATHS`, over HTTP."""
    return scope["type"] == "http" and route_path(scope) in probe_paths
