"""Parts of a model: what is trained, and what stays as it is.

A part is a problem of its own: what is trained becomes the parameters, and the loss
holds the rest. So every method, every privacy object and the ledger work on it as they
are, and clip, noise and what is sent have its coordinates alone.
"""

from jaxfed.parts import lora as lora
from jaxfed.parts._held import hold as hold
from jaxfed.parts._selection import Which as Which
from jaxfed.parts._split import merge as merge
from jaxfed.parts._split import split as split
