"""Attacks: hostile clients in a simulation, to test what resists them.

Who is hostile stands in the data (`marked`); a wrapper around local work (`sign_flip`,
`scaled`, `gaussian_noise`) changes what these clients send. `label_flip` changes the
data itself.
"""

from jaxfed.attacks._gaussian_noise import gaussian_noise as gaussian_noise
from jaxfed.attacks._label_flip import label_flip as label_flip
from jaxfed.attacks._marked import ATTACKER as ATTACKER
from jaxfed.attacks._marked import marked as marked
from jaxfed.attacks._scaled import scaled as scaled
from jaxfed.attacks._sign_flip import sign_flip as sign_flip
