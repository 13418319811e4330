"""One worker process for each framework, run by `python -m peers.NAME_worker`."""
