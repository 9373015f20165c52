"""Adapts a generated ScratchDet to a run of a few minutes on little data: `python short_run.py FOLDER`.

It sets BatchNorm averages that settle within a few thousand iterations, crops and expansion that hardly change the size
of objects, a fixed seed, and a log without the size of every blob.
"""

import sys
from pathlib import Path

from pyscratchdet.experiments.mini import keep_sizes
from pyscratchdet.proto import caffe_pb2, text

folder = Path(sys.argv[1])
for name in ("train", "test", "deploy"):
    net = text.read(folder / f"{name}.prototxt", caffe_pb2.NetParameter)
    for layer in net.layer:
        if layer.type == "BatchNorm":
            layer.batch_norm_param.moving_average_fraction = 0.98
        if layer.type == "AnnotatedData" and name == "train":
            layer.transform_param.expand_param.prob = 0.05
            keep_sizes(layer.annotated_data_param.batch_sampler)
    text.write(folder / f"{name}.prototxt", net)
solver = text.read(folder / "solver.prototxt", caffe_pb2.SolverParameter)
solver.debug_info = False
solver.random_seed = 1
text.write(folder / "solver.prototxt", solver)
