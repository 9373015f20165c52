"""Runs one ONNX file in one deployment engine; `deployment.py` starts it in the engine's own Python.

    ENGINE_PYTHON benchmarks/engine_runner.py ENGINE FILE.onnx INPUTS.npz RESULTS.npz

INPUTS.npz has `<case>:<input>` arrays, RESULTS.npz gets `<case>:<output>`. Nothing but NumPy and the engine is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]


def onnxruntime(path: str, outputs: list[str]) -> tuple[str, Run]:
    import onnxruntime as engine

    options = engine.SessionOptions()
    options.log_severity_level = 3
    session = engine.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return engine.__version__, lambda feed: session.run(outputs, feed)


def openvino(path: str, outputs: list[str]) -> tuple[str, Run]:
    import openvino as engine

    core = engine.Core()
    # Without this hint bfloat16 is used on CPUs that have it.
    model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(feed: Arrays) -> list[np.ndarray]:
        results = model(feed)
        return [results[name] for name in outputs]

    return engine.__version__.partition("-")[0], run


def opencv(path: str, outputs: list[str]) -> tuple[str, Run]:
    import cv2

    net = cv2.dnn.readNetFromONNX(path)

    def run(feed: Arrays) -> list[np.ndarray]:
        for name, array in feed.items():
            net.setInput(array, name)
        return list(net.forward(outputs))

    return cv2.__version__, run


def mnn(path: str, outputs: list[str]) -> tuple[str, Run]:
    # MNN.tools, which is the documented way, runs pip and sends usage data when it is imported.
    import _tools
    import MNN
    from MNN import expr, nn

    form = ["-f", "ONNX"]
    if path.endswith(".caffemodel"):
        form = ["-f", "CAFFE", "--prototxt", f"{path.removesuffix('.caffemodel')}.prototxt"]
    command = ["mnnconvert", *form, "--modelFile", path, "--MNNModel", f"{path}.mnn", "--bizCode", "x"]
    _tools.mnnconvert(command)
    modules: dict[tuple[str, ...], Any] = {}

    def run(feed: Arrays) -> list[np.ndarray]:
        key = tuple(feed)
        if key not in modules:
            modules[key] = nn.load_module_from_file(f"{path}.mnn", list(feed), outputs)
        values = [expr.const(array.ravel().tolist(), list(array.shape), expr.NCHW) for array in feed.values()]
        # read() shows memory that the next run writes over.
        return [np.array(expr.convert(value, expr.NCHW).read()) for value in modules[key].forward(values)]

    return MNN.version() if hasattr(MNN, "version") else "", run


ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino, "opencv": opencv, "mnn": mnn}


def main() -> None:
    """Runs every case of the inputs."""
    engine, path, source, target = sys.argv[1:]
    with np.load(source) as archive:
        arrays = {key: archive[key] for key in archive.files}
    outputs = [str(name) for name in arrays.pop("outputs")]
    version, run = ENGINES[engine](path, outputs)
    results: dict[str, Any] = {"version": version}
    for case in dict.fromkeys(key.partition(":")[0] for key in arrays):
        feed = {key.partition(":")[2]: value for key, value in arrays.items() if key.startswith(f"{case}:")}
        results |= {f"{case}:{name}": value for name, value in zip(outputs, run(feed), strict=True)}
    np.savez(target, **results)


if __name__ == "__main__":
    main()
