"""`pyscratchdet doctor`: what is installed here, whether it works, and what an extra would add."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata

# What each extra of pyproject.toml is for; those for working on the project itself are not listed.
EXTRAS = {
    "onnxruntime": "--engine onnxruntime, verify against it, convert --calibrate",
    "openvino": "--engine openvino, verify against it",
    "tensorrt": "--engine tensorrt, on NVIDIA's GPUs, in place of onnxruntime",
    "mnn": "--engine mnn",
    "timm": "convert timm:NAME",
    "coco": "evaluate coco 40 times as fast, by hotcoco",
    "leveldb": "LevelDB databases",
    "tensorboard": "train --tensorboard",
    "supervision": "detections for supervision",
    "webdataset": "detect on tar shards",
    "parquet": "detect --format parquet",
    "submitit": "experiment run --launcher slurm",
}
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
# What results depend on, in the order of `--version`.
_PACKAGES = ("torch", "torchvision", "numpy", "protobuf", "opencv", "onnx", "onnxruntime", "openvino", "lmdb", "h5py")


@dataclass
class Check:
    """What was looked at.

    Attributes:
        name: What it is.
        state: "ok"; "missing", which is no fault; or "fault".
        detail: Its version, what it can do, or what is wrong.
    """

    name: str
    state: str
    detail: str


class Absent(Exception):
    """What is looked for is not there, which is no fault; the message says what that means."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from pyscratchdet.cli.flags import add_json_flag

    add_json_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Prints what was found; 1 where something that is needed does not work."""
    from pyscratchdet import __version__
    from pyscratchdet.cli.console import console, plain_table, show_json

    checks = list(examine())
    if args.json:
        show_json({"pyscratchdet": __version__, "checks": [asdict(check) for check in checks]})
    else:
        table = plain_table(("what", "state", "detail"))
        for check in checks:
            table.add_row(check.name, check.state, check.detail)
        print(f"pyscratchdet {__version__}")
        console().print(table)
    return 1 if any(check.state == "fault" for check in checks) else 0


def version_lines() -> list[str]:
    """Returns what `--version` prints: this version, and those of what results depend on. Nothing is imported."""
    import platform

    from pyscratchdet import __version__

    found = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    return [f"pyscratchdet {__version__}", ", ".join([f"Python {platform.python_version()}", *found])]


def examine() -> Iterator[Check]:
    """Yields every check, in the order in which they are shown."""
    import platform

    from pyscratchdet.converters.sessions import SESSIONS

    yield Check("Python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    yield from map(_package, _required())
    works: dict[str, Callable[[], str]] = {
        "CPU": _cpu,
        "GPU": _gpu,
        "picture codecs": _codecs,
        "video": _video,
        "LMDB": _lmdb,
        "OpenCV's Caffe importer": _caffe_importer,
        "Graphviz": _graphviz,
        **{f"engine {name}": functools.partial(_engine, name) for name in SESSIONS},
    }
    for name, look in works.items():
        try:
            yield Check(name, "ok", look())
        except Absent as absent:
            yield Check(name, "missing", str(absent))
        except Exception as error:  # whatever a broken installation raises is what is to be told
            yield Check(name, "fault", f"{type(error).__name__}: {' '.join(str(error).split())}")
    yield from (_extra(name, adds) for name, adds in EXTRAS.items())


def _version(name: str) -> str | None:
    """Returns the version of an installed distribution; "opencv" is whichever there is of those with cv2."""
    for distribution in _OPENCV if name == "opencv" else (name,):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def _requirements() -> dict[str, list[tuple[str, str]]]:
    """Returns {extra: (distribution, the least version)}, with those that are always needed under ""."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in metadata.requires("pyscratchdet") or ():
        name, versions, marker = re.fullmatch(r"([\w.-]+)([^;]*);?(.*)", line).groups()  # type: ignore[union-attr]
        extra = re.search(r"""extra == ["']([^"']+)["']""", marker)
        least = re.search(r">=\s*([\w.]+)", versions)
        found.setdefault(extra[1] if extra else "", []).append((name, least[1] if least else "0"))
    return found


def _required() -> list[tuple[str, str]]:
    return [("opencv" if name in _OPENCV else name, least) for name, least in _requirements().get("", [])]


def _package(wanted: tuple[str, str]) -> Check:
    name, least = wanted
    version = _version(name)
    if version is None:
        return Check(name, "fault", f"not installed; {least} or newer is needed")
    if _numbers(version) < _numbers(least):
        return Check(name, "fault", f"{version}; {least} or newer is needed")
    return Check(name, "ok", version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _extra(name: str, adds: str) -> Check:
    wanted = _requirements().get(name)
    if wanted is None:
        return Check(
            f"extra {name}", "missing", f"{adds}: this installation is older than it; install pyscratchdet again"
        )
    checks = [_package(entry) for entry in wanted]
    if all(check.state == "ok" for check in checks):
        return Check(f"extra {name}", "ok", f"{adds} ({', '.join(f'{check.name} {check.detail}' for check in checks)})")
    return Check(f"extra {name}", "missing", f'{adds}: pip install "pyscratchdet[{name}]"')


def _cpu() -> str:
    import os

    import torch

    from pyscratchdet.devices import has_bfloat16

    bits = "multiplies" if has_bfloat16() else "does not multiply"
    return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads in torch; {bits} bfloat16"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise Absent(f"torch {torch.__version__} finds no CUDA device; everything runs on the CPU")
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{each.name}, {each.total_memory / 2**30:.0f} GiB" for each in found)


def _codecs() -> str:
    """Writes and reads a small picture in each form."""
    import cv2
    import numpy as np

    picture = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
    works = []
    for kind in ("jpg", "png", "webp"):
        done, data = cv2.imencode(f".{kind}", picture)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
        if image is not None and image.shape == picture.shape:
            works.append(kind)
    if not {"jpg", "png"} <= set(works):
        raise RuntimeError(f"this OpenCV cannot write and read jpg and png, only: {', '.join(works) or 'nothing'}")
    return ", ".join(works)


def _video() -> str:
    from cv2 import videoio_registry

    names = [videoio_registry.getBackendName(backend) for backend in videoio_registry.getStreamBackends()]
    if not names:
        raise Absent("this OpenCV reads no video files")
    return ", ".join(names)


def _lmdb() -> str:
    """Writes a record and reads it back."""
    import tempfile

    import lmdb

    from pyscratchdet.data.database import Database

    with tempfile.TemporaryDirectory() as folder:
        with lmdb.open(folder, map_size=1 << 20) as store, store.begin(write=True) as transaction:
            transaction.put(b"key", b"value")
        if Database(folder).first() != (b"key", b"value"):
            raise RuntimeError("a record that was written does not come back")
    return f"writes and reads, LMDB {'.'.join(map(str, lmdb.version()))}"


def _caffe_importer() -> str:
    import cv2

    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise Absent(f"OpenCV {cv2.__version__} has none: verify --against opencv needs OpenCV 4")
    return f"OpenCV {cv2.__version__}"


def _engine(name: str) -> str:
    from pyscratchdet.converters.sessions import SESSIONS
    from pyscratchdet.errors import ConversionError

    try:
        module = SESSIONS[name].import_engine()
    except ConversionError as error:
        raise Absent(str(error)) from error
    return str(getattr(module, "__version__", "") or module.version())


def _graphviz() -> str:
    import shutil

    path = shutil.which("dot")
    if path is None:
        raise Absent("draw-net writes .svg and .html without it, .png and .pdf need it")
    return path
