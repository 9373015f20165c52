"""Runs one ONNX file in one deployment engine; other benchmarks start it in the engine's own Python.

    ENGINE_PYTHON benchmarks/engine_runner.py ENGINE FILE.onnx INPUTS.npz RESULTS.npz [THREADS]

INPUTS.npz has `<case>:<input>` arrays, RESULTS.npz gets `<case>:<output>`. Nothing is needed but NumPy and
the engine; for ncnn, TVM and LiteRT the converter to their form and onnx too. With THREADS, which OpenCV, MNN and those
that commands use take, the last case is then run again for every line of the standard input; the answer is a line with
its milliseconds of CPU time and of wall time.
onnxruntime, OpenVINO and MNN are opened as the commands open them (converters/sessions.py); the others, and MNN with
Caffe files, are run here only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # pyscratchdet is not installed in the engines' environments

from pyscratchdet.converters.sessions import SESSIONS

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]


def session(engine: str) -> Callable[..., tuple[str, Run]]:
    """Returns what opens a file in an engine that commands take too."""

    def open_file(path: str, outputs: list[str], threads: int = 0) -> tuple[str, Run]:
        opened = SESSIONS[engine](Path(path).read_bytes(), outputs, threads=threads)
        return opened.version, lambda feed: list(opened.run(feed).values())

    return open_file


def opencv(path: str, outputs: list[str], threads: int = -1) -> tuple[str, Run]:
    import cv2

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(path)

    def run(feed: Arrays) -> list[np.ndarray]:
        for name, array in feed.items():
            net.setInput(array, name)
        return list(net.forward(outputs))

    return cv2.__version__, run


def mnn(path: str, outputs: list[str], threads: int = 0) -> tuple[str, Run]:
    if path.endswith(".onnx"):
        return session("mnn")(path, outputs, threads)
    # MNN.tools, which is the documented way, runs pip and sends usage data when it is imported.
    import _tools
    import MNN
    from MNN import expr, nn

    form = ["-f", "CAFFE", "--prototxt", f"{path.removesuffix('.caffemodel')}.prototxt"]
    command = ["mnnconvert", *form, "--modelFile", path, "--MNNModel", f"{path}.mnn", "--bizCode", "x"]
    _tools.mnnconvert(command)
    modules: dict[tuple[str, ...], Any] = {}
    runtime = nn.create_runtime_manager(({"backend": "CPU", "numThread": threads or 4, "precision": "high"},))

    def run(feed: Arrays) -> list[np.ndarray]:
        key = tuple(feed)
        if key not in modules:
            modules[key] = nn.load_module_from_file(f"{path}.mnn", list(feed), outputs, runtime_manager=runtime)
        values = [expr.const(array, list(array.shape), expr.NCHW) for array in feed.values()]
        # read() shows memory that the next run writes over.
        return [np.array(expr.convert(value, expr.NCHW).read()) for value in modules[key].forward(values)]

    return MNN.version() if hasattr(MNN, "version") else "", run


def ncnn(path: str, outputs: list[str]) -> tuple[str, Run]:
    import ncnn as engine

    folder, name = os.path.split(path)
    shape = ",".join(str(size) for size in _input(path)[1])
    pnnx = [os.path.join(os.path.dirname(sys.executable), "pnnx"), name, f"inputshape=[{shape}]", "fp16=0"]
    subprocess.run(pnnx, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    net = engine.Net()
    for choice in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, choice, False)
    files = [os.path.join(folder, f"{name.removesuffix('.onnx')}.ncnn.{end}") for end in ("param", "bin")]
    if not os.path.exists(files[0]):
        raise RuntimeError("pnnx writes no file for ncnn")
    if net.load_param(files[0]) or net.load_model(files[1]):
        raise RuntimeError("ncnn cannot load what pnnx writes")

    def run(feed: Arrays) -> list[np.ndarray]:
        extractor = net.create_extractor()
        images = [np.ascontiguousarray(array[0]) for array in feed.values()]  # Mat does not keep an array alive
        for place, image in enumerate(images):
            extractor.input(f"in{place}", engine.Mat(image).clone())
        found = [extractor.extract(f"out{place}") for place in range(len(outputs))]
        if any(status for status, _ in found):
            raise RuntimeError("ncnn cannot run what pnnx writes")
        return [np.array(value) for _, value in found]

    return engine.__version__, run


def tvm(path: str, outputs: list[str]) -> tuple[str, Run]:
    import onnx
    import tvm as engine
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(onnx.load(path), keep_params_in_input=False)
    machine = relax.VirtualMachine(engine.compile(module, target="llvm"), engine.cpu())

    def run(feed: Arrays) -> list[np.ndarray]:
        results = machine["main"](*(engine.runtime.tensor(array) for array in feed.values()))
        results = [results] if len(outputs) == 1 else results
        return [result.numpy() for result in results]

    return engine.__version__, run


def litert(path: str, outputs: list[str]) -> tuple[str, Run]:
    import onnx2tf
    from ai_edge_litert.interpreter import Interpreter

    name, _ = _input(path)
    onnx2tf.convert(
        input_onnx_file_path=path,
        output_folder_path=f"{path}.tf",
        copy_onnx_input_output_names_to_tflite=True,
        keep_ncw_or_nchw_or_ncdhw_input_names=[name],
        non_verbose=True,
    )
    file = f"{os.path.basename(path).removesuffix('.onnx')}_float32.tflite"
    interpreter = Interpreter(os.path.join(f"{path}.tf", file))
    call = interpreter.get_signature_runner()

    def run(feed: Arrays) -> list[np.ndarray]:
        found = call(**feed)
        return [found[name] for name in outputs]

    return onnx2tf.__version__, run


def rknn(path: str, outputs: list[str]) -> tuple[str, Run]:
    from importlib.metadata import version

    from rknn.api import RKNN

    engine = RKNN(verbose=False)
    engine.config(target_platform="rk3588")
    for step in (
        lambda: engine.load_onnx(model=path),
        lambda: engine.build(do_quantization=False),
        engine.init_runtime,  # without a target, the simulator
    ):
        if step():
            raise RuntimeError("rknn-toolkit2 refuses the file")

    def run(feed: Arrays) -> list[np.ndarray]:
        return list(engine.inference(inputs=list(feed.values()), data_format=["nchw"] * len(feed)))

    return version("rknn-toolkit2"), run


def _input(path: str) -> tuple[str, list[int]]:
    """Returns name and shape of the only input."""
    import onnx

    (value,) = onnx.load(path, load_external_data=False).graph.input
    return value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim]


ENGINES: dict[str, Callable[..., tuple[str, Run]]] = {
    **{name: session(name) for name in SESSIONS},
    "opencv": opencv,
    "mnn": mnn,
    "ncnn": ncnn,
    "tvm": tvm,
    "litert": litert,
    "rknn": rknn,
}


def main() -> None:
    """Runs every case of the inputs."""
    engine, path, source, target, *threads = sys.argv[1:]
    with np.load(source) as archive:
        arrays = {key: archive[key] for key in archive.files}
    outputs = [str(name) for name in arrays.pop("outputs")]
    version, run = ENGINES[engine](path, outputs, *(int(number) for number in threads))
    results: dict[str, Any] = {"version": version}
    for case in dict.fromkeys(key.partition(":")[0] for key in arrays):
        feed = {key.partition(":")[2]: value for key, value in arrays.items() if key.startswith(f"{case}:")}
        results |= {f"{case}:{name}": value for name, value in zip(outputs, run(feed), strict=True)}
    np.savez(target, **results)
    for _ in sys.stdin if threads else ():
        began = time.process_time(), time.perf_counter()
        run(feed)
        print(1e3 * (time.process_time() - began[0]), 1e3 * (time.perf_counter() - began[1]), flush=True)


if __name__ == "__main__":
    main()
