"""Local work: what one client does between receiving a model and answering."""

from jaxfed.clients._agnostic import agnostic as agnostic
from jaxfed.clients._apfl import apfl as apfl
from jaxfed.clients._clustered import clustered as clustered
from jaxfed.clients._ditto import ditto as ditto
from jaxfed.clients._dyn import dyn as dyn
from jaxfed.clients._fair import fair as fair
from jaxfed.clients._fine_tuned import fine_tuned as fine_tuned
from jaxfed.clients._flax import linen_loss as linen_loss
from jaxfed.clients._flax import nnx_loss as nnx_loss
from jaxfed.clients._flax import nnx_params as nnx_params
from jaxfed.clients._gradient import gradient as gradient
from jaxfed.clients._label_skew import fedlc_loss as fedlc_loss
from jaxfed.clients._label_skew import fedrs_loss as fedrs_loss
from jaxfed.clients._mime import mime as mime
from jaxfed.clients._nova import nova as nova
from jaxfed.clients._personal_layers import personal_layers as personal_layers
from jaxfed.clients._prox import prox as prox
from jaxfed.clients._scaffold import scaffold as scaffold
from jaxfed.clients._sgd import sgd as sgd
