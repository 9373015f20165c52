#!/usr/bin/env python
"""Record every blob of a net inside an original Caffe, for `pyscratchdet verify --against RECORDING.npz`.

Needs pycaffe and numpy only; runs on Python 2.7 and 3.

usage: dump_caffe_blobs.py DEPLOY.prototxt MODEL.caffemodel OUTPUT.npz [INPUT.npz]

INPUT.npz holds one array per input blob, as the net takes it; left out, the inputs are noise of a fixed seed.
OUTPUT.npz holds in:<blob> for inputs and out:<blob> for all other blobs, float32. Blobs that in-place layers change are
recorded as they finally are.
"""

from __future__ import print_function

import sys

import numpy as np


def main(arguments):
    if len(arguments) not in (3, 4):
        sys.exit(__doc__)
    import caffe

    caffe.set_mode_cpu()
    net = caffe.Net(arguments[0], arguments[1], caffe.TEST)
    given = np.load(arguments[3]) if len(arguments) == 4 else None
    noise = np.random.RandomState(1)
    for name in net.inputs:
        blob = net.blobs[name]
        if given is None:
            blob.data[...] = noise.uniform(-120, 130, blob.data.shape)
            continue
        if name not in given.files:
            sys.exit('%s: no array for input "%s", found %s' % (arguments[3], name, ", ".join(given.files)))
        blob.reshape(*given[name].shape)
        net.reshape()
        blob.data[...] = given[name]
    arrays = dict(("in:" + name, net.blobs[name].data.copy()) for name in net.inputs)
    net.forward()
    for name, blob in net.blobs.items():
        if name not in net.inputs:
            arrays["out:" + name] = blob.data.copy()
    np.savez(arguments[2], **arrays)
    print("%d blobs written to %s" % (len(arrays), arguments[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
