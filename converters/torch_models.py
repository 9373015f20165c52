"""PyTorch models by name: `torchvision:NAME`, `timm:NAME` and `module:PACKAGE.MODULE:FACTORY` for your own class.

Models are built with random values or with those of `--weights`; nothing is downloaded. `module:` alone imports code
that is not installed with a library: the spelling asks for it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyscratchdet.converters.weights import read_state_dict
from pyscratchdet.errors import ConversionError, UsageError, counted, nearest

Shapes = tuple[tuple[int, ...], ...]

_SHAPE = re.compile(r"[1-9]\d*(x[1-9]\d*)*")
_MOST_NAMES = 6  # shown of weights that do not fit
_UNUSED = "num_batches_tracked"  # counts of training steps, which change no result


@dataclass(frozen=True)
class NamedModel:
    """A PyTorch model that was asked for by name.

    Attributes:
        name: What stands behind the last colon.
        module: In evaluation mode.
        shapes: Shapes of the inputs that it is made for; empty where the name does not tell.
        mean, std: Of red, green, blue from 0 to 1: how it wants pictures prepared.
    """

    name: str
    module: torch.nn.Module
    shapes: Shapes = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # ImageNet's, as all of torchvision's classifiers have them
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @property
    def mean_bgr(self) -> tuple[float, ...]:
        """The mean of blue, green, red from 0 to 255, as Caffe subtracts it."""
        return tuple(round(255 * value, 6) for value in reversed(self.mean))


def named_model(spelling: str, weights: str | os.PathLike[str] | None = None) -> NamedModel:
    """Returns the model that `torchvision:NAME`, `timm:NAME` or `module:PACKAGE.MODULE:FACTORY` stands for.

    Args:
        spelling: The name.
        weights: .pth, .pt or .safetensors with the values of all its parameters, read without running code; by default
            they are those that the model draws.

    Raises:
        UsageError: There is no such model.
        ConversionError: A library is missing, the user's code fails, or the weights do not fit.
        WeightsError, FileError: The weights are damaged or missing.
    """
    kind, _, name = spelling.partition(":")
    if kind.lower() == "timm":
        module: torch.nn.Module = timm_model(name, weights)
        shapes: Shapes = ((1, *module.pretrained_cfg["input_size"]),)  # type: ignore[index]
        prepared = {key: tuple(module.pretrained_cfg[key]) for key in ("mean", "std")}  # type: ignore[index]
        return NamedModel(name, module.eval(), shapes, **prepared)
    elif kind.lower() == "module":
        module, shapes = own_model(name, weights), ()
    else:
        module = torchvision_model(name, weights)
        shapes = (_torchvision_shape(module),)
    return NamedModel(name.rpartition(":")[2], module.eval(), shapes)


def num_dropouts(module: torch.nn.Module) -> int:
    """Returns how many of its submodules drop values in training."""
    kinds = torch.nn.Dropout, torch.nn.Dropout2d, torch.nn.AlphaDropout
    return sum(isinstance(part, kinds) and part.p > 0 for part in module.modules())


def torchvision_model(name: str, weights: str | os.PathLike[str] | None = None, **options: Any) -> torch.nn.Module:
    """Returns a torchvision model with the weights of a file or random ones; downloads nothing.

    Args:
        name: Such as `vgg16_bn`, `resnet101`, `ssd300_vgg16`.
        weights: See `named_model`.
        **options: Options of the model, such as `num_classes`.

    Raises:
        UsageError: There is no such model.
        WeightsError, FileError: The weights are damaged or missing.
        ConversionError: They do not fit, or the model is a detector other than an SSD.
    """
    from torchvision import models
    from torchvision.models.detection.ssd import SSD

    if name not in models.list_models():
        raise UsageError(
            f'torchvision has no model "{name}"', code="import.model", hint=nearest(name, models.list_models())
        )
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options = {"weights_backbone": None, **options}  # whose default would be downloaded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet's and Inception's builders warn of their slow initial values
        model: torch.nn.Module = models.get_model(name, weights=None, **options)
    if name in models.list_models(module=models.detection) and not isinstance(model, SSD):
        raise ConversionError(
            f"torchvision's {name} chooses its boxes in Python code, which no layer can express",
            code="import.detector",
            hint="its SSDs convert; pyscratchdet generate --list shows others",
        )
    return _with_weights(model, weights, name)


def timm_model(name: str, weights: str | os.PathLike[str] | None = None, **options: Any) -> torch.nn.Module:
    """Returns a timm model with the weights of a file or random ones; downloads nothing.

    Args:
        name: Such as `mobilenetv3_large_100`, with or without the tag of its published weights.
        weights: See `named_model`.
        **options: Options of the model, such as `num_classes`.

    Raises:
        UsageError: There is no such model.
        WeightsError, FileError: The weights are damaged or missing.
        ConversionError: timm is not installed, or the weights do not fit.
    """
    try:
        import timm
    except ImportError as error:
        raise ConversionError(
            "timm is not installed", code="import.missing", hint='pip install "pyscratchdet[timm]"'
        ) from error
    known = timm.list_models()
    if name.partition(".")[0] not in known:  # which also keeps out the names of hubs
        raise UsageError(f'timm has no model "{name}"', code="import.model", hint=nearest(name, known))
    return _with_weights(timm.create_model(name, pretrained=False, **options), weights, name)


def own_model(path: str, weights: str | os.PathLike[str] | None = None) -> torch.nn.Module:
    """Imports the user's module and returns the model that its factory makes.

    Args:
        path: `PACKAGE.MODULE:FACTORY`; the factory is a class or function that needs no arguments, or a module that is
            there already. Modules are looked for in the working directory too, as `python -m` does.
        weights: See `named_model`.

    Raises:
        UsageError: The path has another form, or the module has no such factory.
        ConversionError: The user's code raises, or does not return a module.
    """
    where, _, name = path.partition(":")
    if not where or not name:
        raise UsageError(
            "the factory is missing", code="import.factory", expected="module:PACKAGE.MODULE:FACTORY", found=path
        )
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory = importlib.import_module(where)
        for part in name.split("."):
            factory = getattr(factory, part)
        made = factory if isinstance(factory, torch.nn.Module) else factory()  # type: ignore[operator]
    except AttributeError as error:
        if not hasattr(error, "obj") or getattr(error, "name", None) not in name.split("."):
            raise _own_code(path, error) from error
        raise UsageError(f'module "{where}" has no "{name}"', code="import.factory") from error
    except Exception as error:  # whatever the user's code raises
        raise _own_code(path, error) from error
    if not isinstance(made, torch.nn.Module):
        raise UsageError(
            f"{path} does not make a model", code="import.factory", expected="a torch.nn.Module", found=type(made)
        )
    return _with_weights(made, weights, path)


def parse_shapes(text: str) -> Shapes:
    """Returns the shapes that `--input` gives, such as `1x3x224x224` or `1x3x64x64,1x10`.

    Raises:
        UsageError: The text has another form.
    """
    parts = text.lower().split(",")
    if not all(_SHAPE.fullmatch(part.strip()) for part in parts):
        raise UsageError(
            "--input: not a list of shapes", code="usage.option", expected="1x3x224x224 or 1x3x64x64,1x10", found=text
        )
    return tuple(tuple(int(size) for size in part.split("x")) for part in parts)


def load_weights(module: torch.nn.Module, path: str | os.PathLike[str], name: str) -> None:
    """Gives a module the values of a .pth, .pt or .safetensors file; all of them or none.

    `module.` before every name, which DataParallel writes, is taken off. Counts of training steps are not needed.

    Raises:
        WeightsError, FileError: The file is damaged or missing.
        ConversionError: Names or shapes do not fit; lists them.
    """
    state = read_state_dict(path)
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): array for key, array in state.items()}
    own = module.state_dict()
    _check_fit(state, own, os.fspath(path), name)
    module.load_state_dict({**own, **{key: torch.from_numpy(np.array(array)) for key, array in state.items()}})


def _check_fit(state: Mapping[str, np.ndarray], own: Mapping[str, torch.Tensor], path: str, name: str) -> None:
    missing = [key for key in own if key not in state and not key.endswith(_UNUSED)]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and tuple(state[key].shape) != tuple(own[key].shape)
    ]
    reasons = [
        f"{len(names)} {what}: {_first(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if reasons:
        raise ConversionError(
            f"{path} does not fit {name}, which has {counted(len(own), 'array')}: {'; '.join(reasons)}",
            code="import.weights",
        )


def _first(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _with_weights(module: torch.nn.Module, weights: str | os.PathLike[str] | None, name: str) -> torch.nn.Module:
    if weights is not None:
        load_weights(module, weights, name)
    return module


def _torchvision_shape(module: torch.nn.Module) -> tuple[int, ...]:
    """Returns the shape of the pictures that an SSD resizes to, and 224 x 224 for all others."""
    size = getattr(getattr(module, "transform", None), "fixed_size", None)
    width, height = size or (224, 224)
    return 1, 3, height, width


def _own_code(path: str, error: Exception) -> ConversionError:
    reason = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {reason[0]}" if reason else type(error).__name__
    return ConversionError(f"{path} cannot be made: {what}", code="import.factory")
