"""Federated algorithms, one file each, paper first."""

from jaxfed.algorithms._afl import afl as afl
from jaxfed.algorithms._evaluation import evaluation as evaluation
from jaxfed.algorithms._evaluation import measures as measures
from jaxfed.algorithms._fedavg import fedavg as fedavg
from jaxfed.algorithms._feddyn import feddyn as feddyn
from jaxfed.algorithms._fedexp import fedexp as fedexp
from jaxfed.algorithms._fednova import fednova as fednova
from jaxfed.algorithms._fedopt import fedadagrad as fedadagrad
from jaxfed.algorithms._fedopt import fedadam as fedadam
from jaxfed.algorithms._fedopt import fedavgm as fedavgm
from jaxfed.algorithms._fedopt import fedyogi as fedyogi
from jaxfed.algorithms._fedper import fedper as fedper
from jaxfed.algorithms._fedprox import fedprox as fedprox
from jaxfed.algorithms._fedsgd import fedsgd as fedsgd
from jaxfed.algorithms._ifca import ifca as ifca
from jaxfed.algorithms._mime import mime as mime
from jaxfed.algorithms._qffl import qffl as qffl
from jaxfed.algorithms._scaffold import scaffold as scaffold
