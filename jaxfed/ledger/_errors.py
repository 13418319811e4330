"""What a ledger raises."""


class LedgerError(RuntimeError):
    """The ledger cannot be trusted, or written: nothing was spent and nothing let go.

    Missing, changed, older than it must be, in use by another process, or on a disk
    that is full, failing or read-only.
    """
