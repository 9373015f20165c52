"""CUDA decides like the CPU: the same matches, the same mined priors, the same detections."""

import numpy as np
import pytest
import torch

from pyscratchdet.boxes.detection import DetectionRule, Predictions, detect
from pyscratchdet.layers.base import Context
from pyscratchdet.layers.multibox_loss import MultiBoxLoss
from pyscratchdet.proto import caffe_pb2

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

NUM, PRIORS, CLASSES = 3, 700, 6


@pytest.fixture(name="arrays")
def _arrays():
    rng = np.random.default_rng(4)
    corner = rng.uniform(0, 0.7, (PRIORS, 2))
    priors = np.concatenate([corner, corner + rng.uniform(0.05, 0.3, (PRIORS, 2))], 1)
    blob = np.stack([priors.reshape(-1), np.tile([0.1, 0.1, 0.2, 0.2], PRIORS)])[None]
    truth = [[i, 1 + k, k, *(0.1 * k + np.array([0, 0.1, 0.3, 0.5])), 0] for i in range(NUM) for k in range(3 + i)]
    loc, conf = rng.normal(0, 0.5, (NUM, PRIORS * 4)), rng.normal(0, 2, (NUM, PRIORS * CLASSES))
    return [torch.from_numpy(np.float32(array)) for array in (loc, conf, blob, np.array(truth)[None, None])]


def test_loss_and_gradients(arrays):
    param = caffe_pb2.LayerParameter(name="loss")
    param.multibox_loss_param.num_classes = CLASSES
    param.multibox_loss_param.code_type = caffe_pb2.PriorBoxParameter.CENTER_SIZE
    results = []
    for device in ("cpu", "cuda"):
        bottoms = [array.to(device) for array in arrays]
        for bottom in bottoms[:2]:
            bottom.requires_grad_()
        layer = MultiBoxLoss(param, Context())
        layer.setup([tuple(bottom.shape) for bottom in bottoms])
        (loss,) = layer.forward(bottoms, [])
        loss.backward()
        results.append([loss.detach().cpu(), *(bottom.grad.cpu() for bottom in bottoms[:2])])
    for ours, theirs in zip(*results, strict=True):
        # Sums in another order; which entries are not 0 is exact.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert torch.equal(ours != 0, theirs != 0)


def test_detections(arrays):
    loc, conf, blob = arrays[0].view(NUM, PRIORS, 1, 4), arrays[1].view(NUM, PRIORS, CLASSES).softmax(-1), arrays[2]
    priors, variances = blob.view(2, PRIORS, 4)
    rule = DetectionRule(CLASSES, 0, caffe_pb2.PriorBoxParameter.CENTER_SIZE, nms_threshold=0.45, keep_top_k=150)
    tables = []
    for device in ("cpu", "cuda"):
        given = [tensor.to(device) for tensor in (loc, conf, priors, variances)]
        tables.append(detect(Predictions(*given), rule).table().cpu())
    assert torch.equal(tables[0][:, :3], tables[1][:, :3])
    # exp in double on both, rounded once.
    torch.testing.assert_close(tables[0][:, 3:], tables[1][:, 3:], rtol=0, atol=2e-7)
