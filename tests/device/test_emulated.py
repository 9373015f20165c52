"""The emulated device is as strict as a GPU."""

import pytest
import torch
from emulated import emulated


def test_values_survive_the_way_there_and_back():
    with emulated() as device:
        there = torch.arange(6.0).to(device)
        assert there.device == device
        assert (there.view(2, 3).T @ torch.ones(2, device=device)).cpu().tolist() == [3, 5, 7]
        there[1:3].mul_(10)
        assert there.cpu().tolist() == [0, 10, 20, 3, 4, 5]
        assert torch.ones(2).copy_(there[:2]).tolist() == [0, 10]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda there: there + torch.ones(3),
        lambda there: torch.where(torch.ones(3) > 0, there, there),
        lambda there: torch.cat([there, torch.ones(3)]),
        lambda there: there.numpy(),
    ],
    ids=["sum", "where", "cat", "numpy"],
)
def test_two_devices_are_not_mixed(wrong):
    with emulated() as device, pytest.raises(RuntimeError, match=r"two devices|numpy"):
        wrong(torch.ones(3, device=device))


def test_gradients_are_on_the_device():
    with emulated() as device:
        layer = torch.nn.Conv2d(3, 4, 3).to(device)
        layer(torch.ones(2, 3, 5, 6, device=device)).square().sum().backward()
        assert layer.weight.grad.device == device
