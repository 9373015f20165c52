"""Which layer types the readers of Caffe nets know: what `--layers` limits an import to.

A net that is imported for a target is composed of its layers alone; where that cannot be, the import is refused by the
layer's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyscratchdet.errors import UsageError, nearest


@dataclass(frozen=True)
class LayerSet:
    """The layers of one target that imports use.

    Attributes:
        name: The target.
        types: Its types; None for all that our runtime has.
        lacks: Fields that it passes over, as "Type.field".
    """

    name: str
    types: frozenset[str] | None
    lacks: frozenset[str] = frozenset()

    def has(self, *types: str) -> bool:
        """Returns whether the target has all of these types."""
        return self.types is None or self.types.issuperset(types)

    def missing(self, kind: str, fields: set[str]) -> str:
        """Returns what a layer needs that the target lacks, "" for nothing.

        Args:
            kind: The layer's type.
            fields: The names of the parameters that are set.
        """
        if not self.has(kind):
            return f"the layer {kind}"
        return next((f"{kind}'s {field}" for field in sorted(fields) if f"{kind}.{field}" in self.lacks), "")


# src/caffe/layers of BVLC's master of 2020 (Caffe 1.0 has neither Clip nor Swish).
_BVLC = """AbsVal ArgMax BNLL BatchNorm BatchReindex Bias Clip Concat Convolution Crop Deconvolution Dropout ELU Eltwise
Embed Exp Filter Flatten Im2col InnerProduct Input LRN LSTM Log MVN PReLU Parameter Pooling Power RNN ReLU Reduction
Reshape SPP Scale Sigmoid Silence Slice Softmax Split Swish TanH Threshold Tile"""
# src/caffe/layers of weiliu89's branch ssd.
_SSD = f"{_BVLC} Normalize Permute PriorBox DetectionOutput"
# modules/dnn/src/init.cpp and caffe/caffe_importer.cpp of OpenCV 4.14.
_OPENCV = """AbsVal BNLL BatchNorm Concat Convolution Crop Deconvolution DetectionOutput Dropout ELU Eltwise Exp Flatten
HardSwish InnerProduct Input Interp LRN LSTM Log MVN Mish Normalize PReLU Permute Pooling Power PriorBox ReLU ReLU6
Reorg Reshape Scale ShuffleChannel Sigmoid Silence Slice Softmax Split Swish TanH"""
# tools/converter/source/caffe and optimizer/caffeextra of MNN 3.6.1, which takes other types for outputs of the net.
_MNN = """AbsVal ArgMax BNLL BatchNorm Bias Concat Convolution ConvolutionDepthwise Crop Deconvolution DepthwiseConv
DetectionOutput Dropout ELU Eltwise Embed Exp Flatten InnerProduct Input Interp LRN Log MVN Normalize PReLU Permute
Pooling Power PriorBox ROIPooling ReLU ReLU6 Reduction Reshape Scale ShuffleChannel Sigmoid Slice Softmax Split TanH
Threshold Upsample"""
# tools/caffe/caffe2ncnn.cpp and src/layer of ncnn 20261020; it passes over the parameters of others.
_NCNN = """AbsVal ArgMax BN BNLL BatchNorm Bias Concat Convolution ConvolutionDepthwise Crop Deconvolution
DepthwiseConvolution DetectionOutput Dropout ELU Eltwise Embed Flatten InnerProduct Input Interp LRN LSTM MVN MemoryData
Normalize PReLU PSROIPooling Permute Pooling Power PriorBox ROIAlign ROIPooling ReLU ReLU6 Reorg Reshape Scale
ShuffleChannel Sigmoid Slice Softmax Split TanH Threshold YoloDetectionOutput Yolov3DetectionOutput"""
# The types that RKNN-Toolkit2's manual lists for Caffe.
_RKNN = """BNLL BatchNorm Concat Convolution ConvolutionDepthwise Crop Deconvolution Dropout Eltwise Flatten
InnerProduct Input LRN LSTM Normalize PReLU Permute Pooling Power Proposal ROIPooling ReLU ReLU6 Reduction Reorg Reshape
Resize Scale Sigmoid Slice Softmax Split TanH Tile Upsample"""

_TEXTS = {"bvlc": _BVLC, "ssd": _SSD, "opencv": _OPENCV, "mnn": _MNN, "ncnn": _NCNN, "rknn": _RKNN}
_LACKS = {
    # OpenCV's Deconvolution reads no dilation, its LRN no k.
    "opencv": frozenset({"Deconvolution.dilation", "LRN.k"}),
}
LAYER_SETS = {
    name: LayerSet(name, frozenset(text.split()), _LACKS.get(name, frozenset())) for name, text in _TEXTS.items()
}
ALL_LAYERS = LayerSet("pyscratchdet", None)


def layer_set(name: str | None) -> LayerSet:
    """Returns the layers of a target, all for None.

    Raises:
        UsageError: There is no such target.
    """
    if name is None:
        return ALL_LAYERS
    if name not in LAYER_SETS:
        raise UsageError(
            f'no layers are known for "{name}"',
            code="import.layers",
            expected=" or ".join(LAYER_SETS),
            hint=nearest(name, LAYER_SETS),
        )
    return LAYER_SETS[name]
