"""Layers as plain torch.nn.Modules, without Caffe's graph: what converters/torch_source.py copies into files.

Each file stands alone: it imports torch and other such files only. Lines of code have at most 88 characters and
magic trailing commas, so that `ruff format` leaves copies alone under its default settings too.
"""
