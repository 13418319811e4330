"""What a vault raises."""


class PlanError(ValueError):
    """A plan is not what it may be; nothing of it was run."""


class WireError(ValueError):
    """What came is not what was asked for; none of it was used."""


class PolicyError(ValueError):
    """A policy is not one; nothing was computed."""


class DataError(ValueError):
    """The client's own data cannot be read; nothing was sent."""


class Refused(RuntimeError):
    """A vault does not take part; nothing was sent."""


class TooSoon(Refused):
    """A round comes too soon after the last one; a later one may not."""


class Busy(Refused):
    """Another process has the record; later it may not."""


class Stale(RuntimeError):
    """What a task names is not there any more: its round is over."""


class Unreachable(RuntimeError):
    """The server cannot be reached now; later it may be."""


class Rejected(RuntimeError):
    """The server does not want this client, or what it sent."""
