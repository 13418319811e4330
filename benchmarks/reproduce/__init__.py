"""Published results, run again.

Each module is one experiment: `EXPERIMENT` says what was published, how this differs,
and runs it. `python -m benchmarks.reproduce --help` lists them.
"""
