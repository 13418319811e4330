"""Local work: what one client does between receiving a model and answering."""

from jaxfed.clients._flax import linen_loss as linen_loss
from jaxfed.clients._flax import nnx_loss as nnx_loss
from jaxfed.clients._flax import nnx_params as nnx_params
from jaxfed.clients._sgd import sgd as sgd
