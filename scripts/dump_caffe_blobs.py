#!/usr/bin/env python
# ruff: noqa: UP010, UP032
"""Record every blob of a net inside an original Caffe, for `pyscratchdet verify --against RECORDING.npz`.

Needs pycaffe and numpy only; runs on Python 2.7 and 3.

usage: dump_caffe_blobs.py NET.prototxt MODEL.caffemodel OUTPUT.npz [INPUT.npz]
           [--train] [--gradients] [--step SOLVER.prototxt]

INPUT.npz holds one array per input blob, as the net takes it; without it, the inputs are noise from a fixed seed. Data
layers give what they read. OUTPUT.npz holds float32 arrays:
  in:<blob>             inputs, and what data layers read
  out:<blob>            all other blobs, and inputs that an in-place layer changes; as they are at the end
--train runs the net in the TRAIN phase.
--gradients adds one backward pass, from the losses or, in a net without any, from noise at its outputs:
  topdiff:<blob>        that noise
  diff:<blob>           gradients of blobs
  pdiff:<layer>:<i>     gradients of weights
--step adds the first update of a solver, started from MODEL:
  step_in:<blob>        its inputs
  before:<layer>:<i>    weights before it
  after:<layer>:<i>     weights after it
"""

from __future__ import print_function

import argparse
import os
import re
import tempfile

import caffe
import numpy as np


def sources(net):
    """Returns the blobs that come from outside: inputs, and the tops of data layers."""
    names = list(net.inputs)
    for layer, bottoms in net.bottom_names.items():
        if not bottoms:
            names += [top for top in net.top_names[layer] if top not in names]
    return names


def fill_inputs(net, given):
    """Fills the inputs with their arrays, or with noise in the range of a picture minus its mean; returns copies."""
    noise = np.random.RandomState(1)
    for name in net.inputs:
        blob = net.blobs[name]
        if given is None:
            blob.data[...] = noise.uniform(-120, 130, blob.data.shape)
            continue
        if name not in given:
            raise SystemExit('no array for input "{}", found {}'.format(name, ", ".join(given)))
        blob.reshape(*given[name].shape)
        net.reshape()
        blob.data[...] = given[name]
    return {name: net.blobs[name].data.copy() for name in net.inputs}


def force_backward(prototxt):
    """Returns the path of a copy in which every layer goes backward; without losses, a net would not."""
    with open(prototxt) as file:
        text = re.sub(r"(?m)^ *force_backward *:.*$", "", file.read())
    handle, path = tempfile.mkstemp(suffix=".prototxt")
    with os.fdopen(handle, "w") as file:
        file.write(text + "\nforce_backward: true\n")
    return path


def make_net(arguments):
    """Returns the net; if gradients are asked for, one that goes backward."""
    phase = caffe.TRAIN if arguments.train else caffe.TEST
    net = caffe.Net(arguments.net, arguments.model, phase)
    if not arguments.gradients or any(net.blob_loss_weights.values()):
        return net
    path = force_backward(arguments.net)
    try:
        return caffe.Net(path, arguments.model, phase)
    finally:
        os.remove(path)


def record_blobs(net, given):
    """Runs the net forward and returns all blobs."""
    inputs = fill_inputs(net, given)
    net.forward()
    outside = sources(net)
    arrays = {"in:" + name: array for name, array in inputs.items()}
    for name, blob in net.blobs.items():
        if name not in inputs or not np.array_equal(blob.data, inputs[name]):
            is_read = name in outside and name not in inputs  # by a data layer
            arrays[("in:" if is_read else "out:") + name] = blob.data.copy()
    return arrays


def record_gradients(net):
    """Runs the net backward and returns all gradients."""
    top_diffs = {}
    if not any(net.blob_loss_weights.values()):
        noise = np.random.RandomState(2)
        for name in net.outputs:
            top_diffs[name] = noise.normal(size=net.blobs[name].data.shape).astype(np.float32)
            net.blobs[name].diff[...] = top_diffs[name]
    net.backward()
    arrays = {"topdiff:" + name: array for name, array in top_diffs.items()}
    arrays.update(("diff:" + name, blob.diff.copy()) for name, blob in net.blobs.items())
    arrays.update(weights(net, "pdiff", "diff"))
    return arrays


def weights(net, prefix, field):
    """Returns the weight blobs' data or diffs."""
    return {
        "{}:{}:{}".format(prefix, layer, i): getattr(blob, field).copy()
        for layer, blobs in net.params.items()
        for i, blob in enumerate(blobs)
    }


def record_step(solver_file, model, given):
    """Returns the weights before and after the first update of a solver."""
    solver = caffe.get_solver(solver_file)
    solver.net.copy_from(model)
    inputs = fill_inputs(solver.net, given)
    arrays = weights(solver.net, "before", "data")
    solver.step(1)
    arrays.update(weights(solver.net, "after", "data"))
    for name in sources(solver.net):
        arrays["step_in:" + name] = inputs[name] if name in inputs else solver.net.blobs[name].data.copy()
    return arrays


def main():
    """Records what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", metavar="NET.prototxt")
    parser.add_argument("model", metavar="MODEL.caffemodel")
    parser.add_argument("output", metavar="OUTPUT.npz")
    parser.add_argument("input", metavar="INPUT.npz", nargs="?")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--step", metavar="SOLVER.prototxt")
    arguments = parser.parse_args()
    caffe.set_mode_cpu()
    given = dict(np.load(arguments.input)) if arguments.input else None
    net = make_net(arguments)
    arrays = record_blobs(net, given)
    if arguments.gradients:
        arrays.update(record_gradients(net))
    if arguments.step:
        arrays.update(record_step(arguments.step, arguments.model, given))
    np.savez(arguments.output, **arrays)
    print("{} arrays written to {}".format(len(arrays), arguments.output))


if __name__ == "__main__":
    main()
