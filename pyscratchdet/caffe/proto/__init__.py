"""`caffe.proto`: the messages under the path where scripts look for them."""

from pyscratchdet.proto import caffe_pb2

__all__ = ["caffe_pb2"]
