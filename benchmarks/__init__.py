"""
Benchmarks, each run by ``python -m benchmarks.bench_<name>``.

Speed is reported as a ratio inside one run, since machines are shared and differ.
"""
