"""Judging detectors: Caffe's own average precision, VOC's and COCO's, multi-scale testing, result files, reports."""
