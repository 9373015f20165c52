"""Published nets and torchvision's SSDs with seeded weights: for benchmarks and tests without trained weights."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSD

from pyscratchdet import prototxt
from pyscratchdet.data.figures import DataFigures, SplitFigures
from pyscratchdet.files import write_text
from pyscratchdet.proto.text import to_text
from pyscratchdet.prototxt import own
from pyscratchdet.prototxt.recipe import Options, Recipe
from pyscratchdet.runtime import LayerModule, Net, build_net, save_weights

# Added to the background's confidence, which is highest nearly everywhere in a trained net.
BACKGROUND = 6.0
# Of `make demo`: what its narrow net is chosen by.
DEMO = DataFigures(["shape"], SplitFigures(2000, 4000, [4000]), SplitFigures(100, 200, [200]), (128, 128), [(0.3, 0.3)])


def recipe_of(name: str, options: Options | None = None) -> Recipe:
    """Returns a published net's recipe, or for "own" that of the demo's narrow net."""
    return own.build(DEMO, Options())[0] if name == own.NAME else prototxt.build(name, options)


def seeded_files(name: str, folder: Path, seed: int = 1, options: Options | None = None) -> tuple[Path, Path]:
    """Writes the deploy prototxt of a recipe, without result files, and a caffemodel; returns their paths."""
    param = recipe_of(name, options).deploy
    for layer in param.layer:
        layer.detection_output_param.ClearField("save_output_param")
        if layer.type != "DetectionOutput":
            layer.ClearField("detection_output_param")
    model, weights = folder / f"{name}.prototxt", folder / f"{name}.caffemodel"
    write_text(model, to_text(param))
    net = build_net(model)
    seed_weights(net, seed)
    save_weights(net, weights)
    return model, weights


def seed_weights(net: Net, seed: int = 1) -> None:
    """Gives a detector random weights under which every blob stays near 1 and no two scores are alike."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.layers:
        for role, blob in zip(module.roles, module.blobs, strict=True):
            blob.data.copy_(_values(module.layer_type, role, tuple(blob.shape), generator))
    hooks = [module.register_forward_hook(_normalise) for module in net.layers]
    with torch.no_grad():
        net(picture(seed, net.blob_shapes["data"][2]))
    for hook in hooks:
        hook.remove()
    num_classes = next(m.layer.output_param.num_classes for m in net.layers if m.layer_type == "DetectionOutput")
    for module in net.layers:
        if module.name.endswith("_mbox_conf") and len(module.blobs) > 1:
            module.blobs[1].data[::num_classes] += BACKGROUND


def picture(seed: int = 1, size: int = 300) -> Tensor:
    """Returns a smooth random picture minus a mean, (1, 3, size, size)."""
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) * 255 - 110
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=True)


def _values(layer_type: str, role: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=generator)
    if layer_type == "Normalize" or role == "scale_factor":
        return torch.full(shape, 20.0 if layer_type == "Normalize" else 1.0)
    if role == "variance" or (layer_type == "Scale" and role == "weight"):
        return 0.7 + 0.6 * torch.rand(shape, generator=generator)
    return normal * (math.sqrt(2 / math.prod(shape[1:])) if role == "weight" else 0.1)


def _normalise(module: LayerModule, bottoms: tuple[Tensor, ...], tops: list[Tensor]) -> list[Tensor] | None:
    if module.layer_type not in ("Convolution", "Normalize"):
        return None
    gain = 1 / tops[0].square().mean().sqrt()
    for blob in module.blobs:
        blob.mul_(gain)
    return [top * gain for top in tops]


def seed_ssd(module: SSD, pictures: list[Tensor], seed: int = 1, spread: float = 1.5) -> None:
    """Gives a torchvision SSD random weights under which every place of a picture has scores and boxes of its own.

    Args:
        module: The detector.
        pictures: (3, H, W) from 0 to 1, two or more; statistics of BatchNorm and the heads' scale are taken from them.
        seed: Of the weights.
        spread: Deviation of a class's logits over a map; rounding errors of all layers grow with it.
    """
    torch.manual_seed(seed)
    batch = module.transform(pictures)[0].tensors
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
            elif isinstance(part, nn.BatchNorm2d):
                part.momentum = None  # the plain average
                part.reset_running_stats()
        features = list(module.train().backbone(batch).values())
        module.head(features)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):  # those of one pixel in few pictures may be tiny and enlarge rounding
                part.running_var.clamp_(min=part.running_var.mean() / 4)
        features = list(module.eval().backbone(batch).values())
        for head, deviation in ((module.head.classification_head, spread), (module.head.regression_head, 0.5)):
            for block, feature in zip(head.module_list, features, strict=True):
                last = [part for part in block.modules() if isinstance(part, nn.Conv2d)][-1]
                nn.init.zeros_(last.bias)
                last.weight.mul_(deviation / block(feature).std())
                last.bias.normal_()
