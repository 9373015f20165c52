"""`caffe._caffe`, the compiled half of pycaffe, which some scripts look into (_caffe.cpp).

Its vectors are lists here; `BlobVec` is a type of its own, by which scripts tell a layer's weights from other values.
"""

from pyscratchdet import caffe
from pyscratchdet.caffe.blob import Blob, BlobVec
from pyscratchdet.caffe.solvers import Solver

BoolVec = DtypeVec = IntVec = LayerVec = NetVec = StringVec = list
_compiled = [name for name, module in caffe.MODULES.items() if module in ("mode", "pycaffe", "solvers")]
globals().update({name: getattr(caffe, name) for name in _compiled})

__all__ = ["Blob", "BlobVec", "BoolVec", "DtypeVec", "IntVec", "LayerVec", "NetVec", "Solver", "StringVec"]
__all__ += _compiled
