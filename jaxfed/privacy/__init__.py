"""Privacy: the one value from which every claimed epsilon comes.

A `Privacy` object binds sampler, clip and noise. It does the clipping and the noising
inside a round, and it alone derives sensitivity, event, epsilon and the statement:
nobody can pass any of these in.
"""

from jaxfed.privacy._base import Charged as Charged
from jaxfed.privacy._base import Cost as Cost
from jaxfed.privacy._base import Privacy as Privacy
from jaxfed.privacy._central import Central as Central
from jaxfed.privacy._central_correlated import CentralCorrelated as CentralCorrelated
from jaxfed.privacy._central_entry import central as central
from jaxfed.privacy._every_report import EveryReport as EveryReport
from jaxfed.privacy._every_report import every_report as every_report
from jaxfed.privacy._example_level import ExampleLevel as ExampleLevel
from jaxfed.privacy._example_level import example_level as example_level
from jaxfed.privacy._hypothetical import Hypothetical as Hypothetical
from jaxfed.privacy._hypothetical import hypothetical as hypothetical
from jaxfed.privacy._local import Local as Local
from jaxfed.privacy._local import local as local
from jaxfed.privacy._none import NoPrivacy as NoPrivacy
from jaxfed.privacy._none import Unprotected as Unprotected
from jaxfed.privacy._none import none as none
from jaxfed.privacy._statement import Statement as Statement


def from_json(text: str) -> Privacy:
    """Rebuilds a privacy object from what its `to_json()` wrote."""
    return Privacy.from_json(text)
