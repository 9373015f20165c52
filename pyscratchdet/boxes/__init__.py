"""Tensor functions on boxes: priors, codes, overlap, matching, mining, NMS, and the work of the detection layers.

Boxes are xmin, ymin, xmax, ymax along the last axis, normalised to the image unless a name says `_px`. Everything runs
on the device of its tensors and rounds step by step as the original Caffe does, so that CPU and CUDA make the same
decisions.
"""
