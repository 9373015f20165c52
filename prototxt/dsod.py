"""DSOD300 (DS/64-192-48-1), with BatchNorm and without, as compared in section 4.2.1 of ScratchDet."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from pyscratchdet.caffe.model_libs.blocks import batch_norm_relu, require_top
from pyscratchdet.caffe.net_spec import NetSpec, Top
from pyscratchdet.caffe.net_spec import layers as L
from pyscratchdet.caffe.net_spec import params as P
from pyscratchdet.prototxt import printed
from pyscratchdet.prototxt.nets import Head, ratio_sizes, single_shot, usual_ratios
from pyscratchdet.prototxt.recipe import VOC0712, Entry, Options, Recipe, Training
from pyscratchdet.prototxt.scratchdet import STEPS, VOC_RATIOS

TRAINING = Training(
    base_lr=0.1,
    stepvalue=(20000, 40000, 60000, 80000, 100000),
    max_iter=100000,
    snapshot=2000,
    batch_size=32,
    accum_batch_size=128,
    gpus=(0, 1, 2, 3, 4, 5, 6, 7),
    test_batch_size=2,
    test_interval=2000,
    test_initialization=True,
    display=20,
)
_GROWTH = 48


class _Dsod:
    """Adds DSOD's unnamed layers: each convolution takes its input through BatchNorm and ReLU, or ReLU alone."""

    def __init__(self, batchnorm: bool) -> None:
        self._batchnorm = batchnorm
        fillers: dict[str, Any] = {"weight_filler": {"type": "xavier"}, "bias_filler": {"type": "constant"}}
        self._params = {**fillers, "bias_term": False} if batchnorm else fillers

    def activate(self, bottom: Top) -> Top:
        top: Top = batch_norm_relu(bottom, in_place=False) if self._batchnorm else L.ReLU(bottom)
        return top

    def conv(self, bottom: Top, num_output: int, kernel: int = 1, stride: int = 1) -> Top:
        window = {"kernel_size": kernel, "stride": stride, "pad": kernel // 2}
        top: Top = L.Convolution(bottom, num_output=num_output, **window, **self._params)
        return top

    def transition(self, bottom: Top, num_output: int) -> Top:
        return self.conv(self.activate(bottom), num_output)

    def stem(self, top: Top) -> Top:
        for num_output, stride in ((64, 2), (64, 1), (128, 1)):
            top = self.activate(self.conv(top, num_output, 3, stride))
        return self.pool(top)

    def pool(self, bottom: Top) -> Top:
        top: Top = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=2, stride=2)
        return top

    def dense(self, top: Top, count: int) -> Top:
        """`count` layers, each of which appends its 48 channels."""
        for _ in range(count):
            inner = self.transition(top, 4 * _GROWTH)
            top = L.Concat(top, self.conv(self.activate(inner), _GROWTH, 3), axis=1)
        return top

    def halve(self, bottom: Top, width: int) -> Top:
        """Dense prediction structure: half the channels learned with stride 2, half from the pooled input."""
        learned = self.conv(self.activate(self.transition(bottom, width)), width, 3, 2)
        kept = self.transition(self.pool(bottom), width)
        top: Top = L.Concat(kept, learned, axis=1)
        return top

    def body(self, net: NetSpec) -> None:
        """First (38x38 cells) to Sixth (1x1)."""
        top = self.stem(require_top(net, "data"))
        channels = 128 + 6 * _GROWTH
        top = self.pool(self.transition(self.dense(top, 6), channels))
        channels += 8 * _GROWTH
        net.First = self.transition(self.dense(top, 8), channels)
        channels += 8 * _GROWTH
        top = self.transition(self.dense(self.pool(net.First), 8), channels)
        top = self.transition(self.dense(top, 8), 256)
        net.Second = L.Concat(top, self.transition(self.pool(net.First), 256), axis=1)
        top = net.Second
        for name, width in (("Third", 256), ("Fourth", 128), ("Fifth", 128), ("Sixth", 128)):
            net[name] = top = self.halve(top, width)


def dsod300(name: str, batchnorm: bool, options: Options) -> Recipe:
    """Returns DSOD300; without BatchNorm the rate is a tenth, as in its script."""
    training = TRAINING if batchnorm else replace(TRAINING, base_lr=0.01)
    data, training = options.data(VOC0712), options.training(training)
    low, high = ratio_sizes(300, 6, *VOC_RATIOS)
    head = Head(
        ["First", "Second", "Third", "Fourth", "Fifth", "Sixth"],
        low,
        high,
        usual_ratios(6),
        steps=STEPS[300],
        normalizations=[20] * 6,
        batchnorm=batchnorm,
    )
    return single_shot(name, 300, _Dsod(batchnorm).body, head, data, training, options)


_NAMES = {"dsod300_voc0712": True, "dsod300_nobn_voc0712": False}
ENTRIES = [
    Entry(name, 300, printed.result(name), partial(dsod300, name, batchnorm)) for name, batchnorm in _NAMES.items()
]
