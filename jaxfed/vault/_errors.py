"""What a vault raises."""


class PlanError(ValueError):
    """A plan is not what it may be; nothing of it was run."""
