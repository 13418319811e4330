"""Federated data: the container, embedded sets, partitions, skew, synthetic sets.

Start with `rand_hie()` (5,912 persons) or `fed_heart()` (4 hospitals), which come
with the package; bring your own with `FederatedData.from_arrays`. Sets without
natural clients go through `partition`; `skew` says how uneven the result is;
`synthetic` has the literature's made-up sets and `readers` the sets of other
packages.
"""

from jaxfed.data import partition as partition
from jaxfed.data import readers as readers
from jaxfed.data import skew as skew
from jaxfed.data import synthetic as synthetic
from jaxfed.data._embedded import FED_HEART_FEATURES as FED_HEART_FEATURES
from jaxfed.data._embedded import FED_HEART_HOSPITALS as FED_HEART_HOSPITALS
from jaxfed.data._embedded import RAND_HIE_FEATURES as RAND_HIE_FEATURES
from jaxfed.data._embedded import fed_heart as fed_heart
from jaxfed.data._embedded import rand_hie as rand_hie
from jaxfed.data._federated_data import FederatedData as FederatedData
from jaxfed.data._label_counts import with_label_counts as with_label_counts
