"""The engine's benchmark: workloads, environments, timing in turn, the table."""
