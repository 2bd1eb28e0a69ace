"""
Rendered services beside the packages, agents and servers that teams use.

Each case of `CASES` installs a real package into an environment of its own, starts a rendered
service with it as its documentation says, and drives it over a socket. `pytest -m matrix
tests/compatibility` runs all of them, any other run a sample. `COMPATIBILITY=write` in the
environment writes what was seen into `docs/compatibility.md`.
"""
