"""
Benchmarks, each run by ``python -m benchmarks.bench_<what>``.

Speed is told as a ratio inside one run, since machines are shared and differ.
"""
