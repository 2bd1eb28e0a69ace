"""
What a stack costs: `uv run --group benchmark python -m tests.benchmark`.

No test: nothing here passes or fails. It renders services, drives them and two rivals in one
interleaved run and writes `docs/performance.md`. Whatever runs beside a service (`apps`,
`workload`, `worker`, `rivals`) imports nothing of the tests.
"""
