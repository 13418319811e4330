"""The privacy ledger: a budget that survives crashes, copies and second writers."""

from jaxfed.accounting import BudgetExhausted as BudgetExhausted
from jaxfed.ledger._errors import LedgerError as LedgerError
from jaxfed.ledger._ledger import Ledger as Ledger
from jaxfed.ledger._ledger import Verified as Verified
from jaxfed.ledger._mechanism import Charge as Charge
from jaxfed.ledger._mechanism import Mechanism as Mechanism
from jaxfed.ledger._paid_run import PaidRun as PaidRun
from jaxfed.ledger._permit import Permit as Permit
from jaxfed.ledger._rows import Entry as Entry
