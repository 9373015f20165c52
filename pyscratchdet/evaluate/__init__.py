"""Judging detectors: Caffe's own average precision, VOC's and COCO's, result files, reports, and the Detector call."""
