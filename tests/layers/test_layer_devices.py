"""Every layer type on another device: as on the CPU, with all it makes on that device."""

import detection_cases
import pytest
import torch
from harness import errors, recorded_cases
from layer_cases import CASES, case_id
from layer_values import build, values

# Sums in another order on a GPU; the emulated device computes as the CPU does.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
DETECTION = [name for kind in ("PriorBox", "MultiBoxLoss", "DetectionOutput", "DetectionEvaluate")
             for name in detection_cases.recorded(kind)]  # fmt: skip


def run(case, device):
    """Returns the tops and the gradients of a case's bottoms and blobs, on the CPU."""
    layer, _ = build(case)
    bottoms, blobs = ([tensor.to(device) for tensor in given] for given in values(case, layer, case.bottoms))
    for i, bottom in enumerate(bottoms):
        bottom.requires_grad_(case.differentiable and not case.whole and i not in layer.no_gradient)
    for spec, blob in zip(layer.blobs, blobs, strict=True):
        blob.requires_grad_(case.differentiable and not spec.is_statistic)
    tops = layer.forward(bottoms, blobs)
    assert all(top.device == bottoms[0].device for top in tops)
    wanted = [top for top in tops if top.requires_grad]
    if wanted:
        torch.autograd.backward(wanted, [torch.linspace(-1, 2, top.numel()).view(top.shape).to(device)
                                         for top in wanted])  # fmt: skip
    grads = [tensor.grad for tensor in (*bottoms, *blobs) if tensor.grad is not None]
    return [tensor.detach().cpu() for tensor in (*tops, *grads)]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_as_on_the_cpu(case, device):
    for found, expected in zip(run(case, device), run(case, "cpu"), strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("case", recorded_cases())
def test_recordings(case, device):
    for key, error in errors(case, device=device).items():
        assert error <= 1e-4, key  # the promise for long sums


@pytest.mark.parametrize("name", DETECTION)
def test_detection_layers(name, device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = []
    for place in ("cpu", device):
        layer, bottoms, _ = detection_cases.load(name)
        moved = [bottom.detach().to(place).requires_grad_(bottom.requires_grad) for bottom in bottoms]
        _, tops = detection_cases.run(layer, moved)
        for top in tops:
            if top.requires_grad:
                top.sum().backward()
        grads = [bottom.grad for bottom in moved if bottom.grad is not None]
        results.append([tensor.detach().cpu() for tensor in (*tops, *grads)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)
