"""ONNX models in the engines that run them: one way to open and run them, for commands and benchmarks.

Needs NumPy and the engine itself, nothing else, so that benchmarks can use it in an engine's own environment.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import IO, Any, ClassVar

import numpy as np

from pyscratchdet.errors import ConversionError


class Session(ABC):
    """An ONNX model, opened by an engine: TensorRT on the first GPU, others on the CPU.

    Args:
        model: The file's bytes.
        outputs: Names of the values to return.
        optimize: Whether the engine may fuse operators, if that can be chosen.
        threads: How many to use; 0 leaves it to the engine.
        precision: "float32", or "bf16" where the engine has it: what it may multiply float32 values in.

    Attributes:
        name: What `--engine` calls the engine.
        module: The Python module that it is.
        extra: The extra of pyscratchdet that installs it.
        precisions: That it can be asked for.
        needs_static_shapes: Whether it takes only models whose shapes are all known: "fixed" heads and a batch size.
        shows_blobs: Whether every value inside a model can be asked for.
        version: The engine's version.

    Raises:
        ConversionError: The engine is not installed (`engine.missing`), does not have the precision
            (`engine.precision`) or refuses the model (`engine.refused`).
    """

    name: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    needs_static_shapes: ClassVar[bool] = False
    shows_blobs: ClassVar[bool] = True

    def __init__(
        self,
        model: bytes,
        outputs: Sequence[str],
        *,
        optimize: bool = True,
        threads: int = 0,
        precision: str = "float32",
    ) -> None:
        if precision not in self.precisions:
            raise ConversionError(
                f"{self.name} cannot be asked for another precision than the file's",
                code="engine.precision",
                expected=" or ".join(self.precisions),
                found=precision,
            )
        self._outputs = list(outputs)
        self._optimize, self._threads, self._precision = optimize, threads, precision
        engine = self.import_engine()
        self.version = str(getattr(engine, "__version__", "")).partition("-")[0]
        try:
            self._open(engine, model)
        except Exception as error:  # engines' exceptions have no base class of their own
            raise self._error("refuses the net", error, "engine.refused") from error

    @classmethod
    def import_engine(cls) -> ModuleType:
        """Returns the engine's module.

        Raises:
            ConversionError: It is not installed.
        """
        try:
            return importlib.import_module(cls.module)
        except ImportError as error:
            raise ConversionError(
                f"{cls.name} is not installed", code="engine.missing", hint=f'pip install "pyscratchdet[{cls.extra}]"'
            ) from error

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs by name for {input: array}.

        Raises:
            ConversionError: The engine cannot run the model on them (`engine.failed`).
        """
        try:
            values = self._run(feed)
        except Exception as error:
            raise self._error("cannot run the net", error, "engine.failed") from error
        return dict(zip(self._outputs, values, strict=True))

    @abstractmethod
    def _open(self, engine: ModuleType, model: bytes) -> None:
        """Opens the model."""

    @abstractmethod
    def _run(self, feed: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """Returns the outputs in their order."""

    def _error(self, what: str, error: Exception, code: str) -> ConversionError:
        return ConversionError(f"{self.name} {what}: {' '.join(str(error).split())}", code=code)


class OnnxRuntimeSession(Session):
    """onnxruntime."""

    name, module, extra = "onnxruntime", "onnxruntime", "onnxruntime"
    provider: ClassVar[str] = "CPUExecutionProvider"
    provider_options: ClassVar[Mapping[str, object]] = {}

    def _open(self, engine: ModuleType, model: bytes) -> None:
        options = engine.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        if not self._optimize:
            options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self.provider != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        asked = [(self.provider, dict(self.provider_options))]
        # With its fall-back it would print an error and go on in another provider.
        self._session = engine.InferenceSession(model, options, providers=asked, enable_fallback=0)
        if (provider := self._session.get_providers()[0]) != self.provider:
            raise RuntimeError(f"onnxruntime opened it in {provider}")

    def _run(self, feed: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        values: Sequence[np.ndarray] = self._session.run(self._outputs, dict(feed))
        return values


class TensorRTSession(OnnxRuntimeSession):
    """TensorRT, by onnxruntime's provider for it: the whole model on the GPU in float32, or nothing.

    Other threads and fused operators cannot be asked for.
    """

    name, module, extra = "tensorrt", "onnxruntime", "tensorrt"
    needs_static_shapes = True
    provider = "TensorrtExecutionProvider"
    # Both are its defaults, but with no option given it takes all of them from environment variables.
    provider_options: ClassVar[Mapping[str, object]] = {"trt_fp16_enable": False, "trt_int8_enable": False}

    @classmethod
    def import_engine(cls) -> ModuleType:
        """See the base class; the packages `onnxruntime` and `onnxruntime-gpu` are both called onnxruntime in Python.

        Raises:
            ConversionError: onnxruntime is not installed, or was built without TensorRT.
        """
        engine = super().import_engine()
        if cls.provider not in (providers := engine.get_available_providers()):
            raise ConversionError(
                f"onnxruntime {engine.__version__} was built without TensorRT",
                code="engine.missing",
                expected=cls.provider,
                found=", ".join(providers),
                hint=f'pip uninstall onnxruntime, then pip install "pyscratchdet[{cls.extra}]"',
            )
        return engine

    def _open(self, engine: ModuleType, model: bytes) -> None:
        # The provider has no option for it; NVIDIA's libraries read this when they are first used.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        engine.preload_dlls()  # CUDA's, where pip installed them
        with contextlib.suppress(ImportError):  # it loads TensorRT's, which may also be the system's
            self.version = f"{importlib.import_module('tensorrt').__version__} by onnxruntime {self.version}"
        super()._open(engine, model)


class OpenVinoSession(Session):
    """OpenVINO. It always fuses what its outputs allow."""

    name, module, extra = "openvino", "openvino", "openvino"
    precisions = ("float32", "bf16")

    @classmethod
    def import_engine(cls) -> ModuleType:
        """See the base class. OpenVINO reports each import to its makers if its package for that can be imported."""
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        return super().import_engine()

    def _open(self, engine: ModuleType, model: bytes) -> None:
        core = engine.Core()
        # Without this hint bfloat16 is used on CPUs that have it.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32" if self._precision == "float32" else "bf16"}
        if self._threads:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        self._model = core.compile_model(core.read_model(model), "CPU", settings)

    def _run(self, feed: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        results = self._model(dict(feed))
        return [results[name] for name in self._outputs]


class MnnSession(Session):
    """MNN: the fastest on large nets, and the least exact, as it multiplies in Winograd's way."""

    name, module, extra = "mnn", "MNN", "mnn"
    shows_blobs = False  # its converter always fuses some

    @classmethod
    def import_engine(cls) -> ModuleType:
        """See the base class. MNN writes what the CPU has to the standard output when it is imported."""
        with open(os.devnull, "w") as nowhere, _printing_to(nowhere):
            return super().import_engine()

    def _open(self, engine: ModuleType, model: bytes) -> None:
        self.version = str(engine.version())
        self._expr, nn = (importlib.import_module(f"MNN.{name}") for name in ("expr", "nn"))
        # "high" is float32; without it convolutions may use float16 where the CPU has it.
        threads = self._threads or len(os.sched_getaffinity(0))
        settings = {"backend": "CPU", "numThread": threads, "precision": "high"}
        with (
            tempfile.TemporaryDirectory(prefix="pyscratchdet-") as folder,
            open(os.path.join(folder, "said"), "w+", errors="replace") as said,
            _printing_to(said),
        ):
            source, target = (os.path.join(folder, f"net.{form}") for form in ("onnx", "mnn"))
            with open(source, "wb") as file:
                file.write(model)
            words = ["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", target, "--bizCode", "x"]
            # MNN.tools, which is the documented way, runs pip and sends usage data when it is imported.
            importlib.import_module("_tools").mnnconvert(words)
            if os.path.exists(target):
                self._runtime = nn.create_runtime_manager((settings,))
                self._net = nn.load_module_from_file(target, [], self._outputs, runtime_manager=self._runtime)
                self._inputs = self._net.get_info()["inputNames"]
                return
            said.seek(0)
            errors = [line.strip() for line in said if "ERROR" in line]
        raise RuntimeError("; ".join(errors) or "its converter wrote no net")

    def _run(self, feed: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        nchw = self._expr.NCHW
        values = [self._expr.const(feed[name], list(feed[name].shape), nchw) for name in self._inputs]
        found = self._net.forward(values)
        if len(found) != len(self._outputs):  # how it says that it failed
            raise RuntimeError("it returned no values")
        # read() shows memory that the next run writes over.
        return [np.array(self._expr.convert(value, nchw).read()) for value in found]


@contextlib.contextmanager
def _printing_to(file: IO[Any]) -> Iterator[None]:
    """Sends what the process prints, libraries in C++ included, into a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


SESSIONS: dict[str, type[Session]] = {
    kind.name: kind for kind in (OnnxRuntimeSession, OpenVinoSession, MnnSession, TensorRTSession)
}
