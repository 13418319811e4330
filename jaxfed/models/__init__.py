"""Layers that stay fast in a loop, and small reference models made of them.

XLA on the CPU runs the weight gradient of a stock convolution many times slower inside
a loop than outside, and a federated round is a loop. These layers compute what the
stock layers of flax compute, in a form that costs the same inside and outside.
"""

from jaxfed.models._convolution import conv_general_dilated as conv_general_dilated
from jaxfed.models._dropout import Dropout as Dropout
from jaxfed.models._dropout import NnxDropout as NnxDropout
from jaxfed.models._dropout import dropout as dropout
from jaxfed.models._pooling import max_pool as max_pool
from jaxfed.models._recurrence import GruParams as GruParams
from jaxfed.models._recurrence import LstmParams as LstmParams
from jaxfed.models._recurrence import gru as gru
from jaxfed.models._recurrence import lstm as lstm
from jaxfed.models._recurrent import GRU as GRU
from jaxfed.models._recurrent import LSTM as LSTM
from jaxfed.models._reference import CNN as CNN
from jaxfed.models._reference import MLP as MLP
from jaxfed.models._reference import CharacterRNN as CharacterRNN
from jaxfed.models._reference import CharacterTransformer as CharacterTransformer
from jaxfed.models._reference import LogisticRegression as LogisticRegression
