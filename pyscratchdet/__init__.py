"""Caffe's SSD, RefineDet and ScratchDet without Caffe."""

__version__ = "0.1.0"
