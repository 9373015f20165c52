"""Operations of PyTorch and ONNX as Caffe layers: one set, into which both importers translate.

Each operation is a function of a `Composer` and blobs that adds layers and returns the blob that they make. It is
registered with its exactness; what cannot be expressed is refused with the reason.
"""
