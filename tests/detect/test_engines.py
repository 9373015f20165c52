"""The same detections from every engine that `detect` and `evaluate` take."""

import importlib.util
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import onnx
import pytest

from pyscratchdet.cli import main
from pyscratchdet.converters.onnx_detection import OnnxDetection, OnnxDetector
from pyscratchdet.converters.onnx_export import save_onnx
from pyscratchdet.converters.sessions import SESSIONS
from pyscratchdet.detect.detector import Detector, Preparation
from pyscratchdet.errors import ConversionError, DataError, WeightsError
from pyscratchdet.runtime import load_net

PREPARATION = Preparation((0.0,), 1 / 255)
FACTS = {
    "mean": "0",
    "scale": repr(1 / 255),
    "channels": "bgr",
    "labels": '{"0": "background", "1": "blue", "2": "red"}',
}
# Of boxes in pixels of a picture of 144: another order of rounding in float32, whose last bit is 2e-5 there.
PIXELS = 1e-3
# Of scores near 1: other roundings of a softmax in float32, a few of 6e-8.
SCORE = 1e-5


VERSIONS = {"onnxruntime": "1.", "openvino": "2", "mnn": "3."}


@pytest.fixture(params=list(VERSIONS))
def engine(request):
    if importlib.util.find_spec(SESSIONS[request.param].module) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def file(block_model, tmp_path):
    """Returns a function that writes the detector as an ONNX file."""

    def write(facts=FACTS, **options):
        save_onnx(load_net(*block_model[:2]), tmp_path / "blocks.onnx", metadata=facts, **options)
        return tmp_path / "blocks.onnx"

    return write


def alike(found, expected):
    """Checks detections but for the order of equal scores."""
    assert [len(one) for one in found] == [len(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        one, other = (each.select(np.lexsort([*each.boxes_px.round().T, each.labels])) for each in (one, other))
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.scores, other.scores, atol=SCORE)
        np.testing.assert_allclose(one.boxes_px, other.boxes_px, atol=PIXELS)


def pictures(picture):
    """More than a batch; the last but one shows nothing."""
    return [picture((0, 1, 2)), picture((2, 3, 5), (0, 0, 0)), picture((2, 1, 1)), picture(), picture((0, 2, 4))]


def test_a_net_finds_the_same(engine, detector, block_model, picture):
    other = OnnxDetection(engine, OnnxDetector.of_net(*block_model[:2]))
    assert other.title.startswith(f"{engine} {VERSIONS[engine]}")
    with_engine = Detector.in_engine(other, block_model[2], preparation=PREPARATION, batch_size=2)
    alike(with_engine.detect(pictures(picture)), detector.detect(pictures(picture)))
    assert with_engine.names == detector.names
    assert with_engine.confidence_threshold == detector.confidence_threshold
    assert with_engine.seconds.images == 5
    assert with_engine.seconds.nms == 0  # inside the graph


def test_another_size(engine, block_model, picture):
    """The net at half its size sees the same cells, two of them to a block of the picture."""
    here = Detector(*block_model, preparation=PREPARATION, size=(64, 96))
    there = OnnxDetection(engine, OnnxDetector.of_net(*block_model[:2], (64, 96)))
    assert there.size == (64, 96)
    assert not there.fits((32, 48))
    alike(
        Detector.in_engine(there, block_model[2], preparation=PREPARATION).detect(pictures(picture)),
        here.detect(pictures(picture)),
    )


@pytest.mark.parametrize(
    "options", [{}, {"heads": "fixed"}, {"batch": 3}, {"heads": "fixed", "batch": 2}, {"half": True}]
)
def test_a_file_says_all_that_is_needed(engine, detector, file, picture, options):
    read = OnnxDetector.of_file(file(**options))
    other = Detector.in_engine(OnnxDetection(engine, read), read.labels(), preparation=read.preparation(), batch_size=4)
    alike(other.detect(pictures(picture)), detector.detect(pictures(picture)))
    assert other.names == detector.names


@pytest.mark.parametrize("layer", ["loc", "conf"])
def test_a_net_that_gives_no_numbers_is_refused(engine, block_model, picture, layer, tmp_path):
    net = load_net(*block_model[:2])
    net.params[layer][0].detach()[0, 0] = float("nan")
    save_onnx(net, tmp_path / "nan.onnx", metadata=FACTS)
    other = OnnxDetection(engine, OnnxDetector.of_file(tmp_path / "nan.onnx"))
    with pytest.raises(DataError, match=r"not numbers.*detect\.nan"):
        Detector.in_engine(other, preparation=PREPARATION).detect([picture((0, 1, 1))])


@pytest.mark.parametrize("missing", [*FACTS, "heads", "rows", "predictions", "num_classes", "background"])
def test_what_a_file_lacks_is_named(file, folder, missing, capsys, tmp_path):
    path = file()
    model = onnx.load(path)
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != missing}
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, path)
    assert main(["detect", str(folder / "a.png"), "--weights", str(path), "-o", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert f'says nothing of its "{missing}"' in said
    assert "onnx.metadata" in said
    hints = {"labels": "--labelmap"} | dict.fromkeys(("mean", "scale", "channels"), "--mean")
    assert hints.get(missing, "convert the net again") in said


def test_a_strangers_file_is_told_what_it_lacks(file, folder, capsys, tmp_path):
    path = file()
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"author": "somebody"})
    onnx.save(model, path)
    assert main(["detect", str(folder / "a.png"), "--weights", str(path), "-o", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert f"{path}: not a detector that `pyscratchdet convert` wrote, expected metadata heads, rows," in said
    assert "mean, scale, channels, labels and found author" in said
    assert f"pyscratchdet convert {path} net.caffemodel --prototxt net.prototxt" in said


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_weights_of_another_form_are_told_how_to_be_converted(block_model, folder, flags, form, capsys, tmp_path):
    deploy, weights, _ = block_model
    path = tmp_path / f"my blocks.{form}"
    assert main(["convert", str(weights), str(path), "--model", str(deploy)]) == 0
    flags[3] = str(path)
    assert main(["detect", str(folder / "a.png"), *flags, "-o", str(tmp_path / "o")]) == 2
    command = capsys.readouterr().err.partition("convert it first: pyscratchdet ")[2].partition(" [weights.form]")[0]
    assert main(shlex.split(command)) == 0
    flags[3] = str(tmp_path / "my blocks.caffemodel")
    assert main(["detect", str(folder / "a.png"), *flags, "-o", str(tmp_path / "o")]) == 0
    assert "1 picture, 1 object (blue: 1)" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"heads": "boxes"}, {"heads": "raw"}])
def test_a_file_without_rows_is_refused(file, options):
    with pytest.raises(WeightsError, match=r"gives no rows of detections.*onnx\.form"):
        OnnxDetection("onnxruntime", OnnxDetector.of_file(file(**options)))


def test_a_file_that_keeps_weights_elsewhere_is_refused(file, tmp_path):
    path = file()
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="other.bin")
    onnx.save(model, path)
    with pytest.raises(WeightsError, match=r"another file.*weights\.external"):
        OnnxDetector.of_file(path)


# --- the commands ---


def detections(folder):
    return json.loads((folder / "detections.json").read_text())


def test_detect_names_the_engine(engine, folder, flags, tmp_path, capsys):
    assert main(["detect", str(folder), *flags, "-o", str(tmp_path / "torch")]) == 0
    assert main(["detect", str(folder), *flags, "--engine", engine, "-o", str(tmp_path / "other")]) == 0
    ours, theirs = detections(tmp_path / "torch"), detections(tmp_path / "other")
    assert ours["engine"].startswith("torch ")
    assert theirs["engine"].startswith(f"{engine} ")
    for one, other in zip(ours["images"], theirs["images"], strict=True):
        assert [(d["class"], d["box"]) for d in one["detections"]] == [
            (d["class"], pytest.approx(d["box"], abs=0.01))
            for d in other["detections"]  # rounded to hundredths
        ]


def test_detect_runs_a_converted_file(engine, block_model, folder, flags, tmp_path, capsys):
    deploy, weights, labels = block_model
    path = tmp_path / "blocks.onnx"
    options = ["--labelmap", str(labels), "--mean", "0", "--scale", repr(1 / 255)]
    assert main(["convert", str(weights), str(path), "--model", str(deploy), *options]) == 0
    out = tmp_path / "out"
    assert main(["detect", str(folder), "--weights", str(path), "--engine", engine, "-o", str(out)]) == 0
    assert "3 pictures, 3 objects (blue: 2, red: 1)" in capsys.readouterr().out
    assert detections(out)["classes"] == {"0": "background", "1": "blue", "2": "red"}
    assert main(["detect", str(folder / "a.png"), "--weights", str(path), "-o", str(out), "--benchmark"]) == 0
    assert "onnxruntime 1." in capsys.readouterr().out
    options = ["--weights", str(path), "-o", str(out), "--json"]
    assert main(["detect", str(folder / "a.png"), *options, "--benchmark"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["input"] == [32, 48]
    assert set(found["seconds_per_picture"]) == {"1", "8"}
    assert main(["detect", str(folder / "a.png"), *options]) == 2
    assert "--json is for the times, expected --benchmark" in capsys.readouterr().err


BAD = {
    "the net twice": (["--model", "deploy.prototxt"], "an ONNX file has its net and its size"),
    "another size": (["--size", "64x96"], "an ONNX file has its net and its size"),
    "torch": (["--engine", "torch"], "torch does not run ONNX files"),
    "half a preparation": (["--scale", "2"], "an ONNX file says how pictures are prepared"),
    "red first alone": (["--rgb"], "an ONNX file says how pictures are prepared"),
}


@pytest.mark.parametrize("kind", BAD)
def test_options_that_a_file_leaves_no_room_for(file, folder, tmp_path, kind, capsys):
    extra, message = BAD[kind]
    arguments = ["detect", str(folder), "--weights", str(file()), "-o", str(tmp_path / "o")]
    assert main([*arguments, *extra]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_options_of_the_command_line_win_over_the_file(file, folder, tmp_path, capsys):
    """Read as red first, blue blocks are red."""
    extra = ["--mean", "0", "--scale", repr(1 / 255), "--rgb"]
    assert main(["detect", str(folder), "--weights", str(file()), "-o", str(tmp_path / "o"), *extra]) == 0
    assert "(red: 2, blue: 1)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("command", ["detect", "verify"])
def test_an_engine_that_is_not_installed(folder, flags, tmp_path, monkeypatch, capsys, name, command):
    monkeypatch.setitem(sys.modules, name, None)
    arguments = {
        "detect": [str(folder), *flags, "--engine", name, "-o", str(tmp_path / "o")],
        "verify": [*flags[:4], "--against", name],
    }
    assert main([command, *arguments[command]]) == 2
    said = capsys.readouterr().err
    assert f'{name} is not installed; pip install "pyscratchdet[{name}]" [engine.missing]' in said


def test_openvino_does_not_report_its_import():
    """Without a word it would: its package imports another that sends the event."""
    pytest.importorskip("openvino")
    code = (
        "import sys; from pyscratchdet.converters.sessions import SESSIONS\n"
        "SESSIONS['openvino'].import_engine()\n"
        "assert sys.modules['openvino'] and sys.modules['openvino_telemetry'] is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_mnn_prints_is_not_in_the_output(devkit, flags):
    """It prints from C++: of the CPU when it is imported, of the net when it converts it."""
    pytest.importorskip("MNN")
    line = ["evaluate", "voc", "--data", str(devkit), *flags, "--engine", "mnn", "--json"]
    done = subprocess.run([sys.executable, "-m", "pyscratchdet", *line], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["engine"].startswith("mnn 3.")
    assert "MNN" not in done.stderr


def test_mnn_returning_nothing_is_a_failure(block_model, picture, monkeypatch):
    """It does so for int8 files."""
    pytest.importorskip("MNN")
    engine = OnnxDetection("mnn", OnnxDetector.of_net(*block_model[:2]))
    monkeypatch.setattr(engine._session, "_net", type("Net", (), {"forward": lambda self, values: []})())
    with pytest.raises(ConversionError, match=r"mnn cannot run the net: it returned no values.*engine\.failed"):
        Detector.in_engine(engine, preparation=PREPARATION).detect([picture((0, 1, 1))])


def test_mnn_does_not_show_blobs(flags, capsys):
    assert main(["verify", *flags[:4], "--against", "mnn"]) == 2
    error = capsys.readouterr().err
    assert "mnn does not show every blob of a net, expected onnxruntime or openvino or tensorrt [engine.blobs]" in error
    assert error.count("[") == 1
    assert main(["verify", *flags[:4], "--against", "tensorflow"]) == 2
    error = capsys.readouterr().err
    listed = error.partition("expected ")[2].partition(", a recording")[0].split(", ")
    assert listed == ["torch", "onnxruntime", "openvino", "tensorrt", "opencv", "fast", "folded", "cuda"]
    assert set(SESSIONS) - set(listed) == {name for name, kind in SESSIONS.items() if not kind.shows_blobs}
    with pytest.raises(SystemExit, match="2"):
        main(["verify", *flags[:4], "--engine", "mnn"])


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt"])
def test_other_engines_do_not_choose_a_gpu(folder, flags, name, capsys):
    assert main(["detect", str(folder), *flags, "--engine", name, "--gpu", "0"]) == 2
    said = capsys.readouterr().err
    assert "--gpu is for torch" in said
    assert ("CUDA_VISIBLE_DEVICES" in said) == (name == "tensorrt")


def test_unknown_engines_are_refused(folder, flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["detect", str(folder), *flags, "--engine", "ncnn"])
    assert "invalid choice: 'ncnn'" in capsys.readouterr().err


# --- TensorRT ---

TENSORRT = "TensorrtExecutionProvider"


@pytest.mark.parametrize("command", ["detect", "evaluate", "score", "verify"])
def test_an_onnxruntime_without_tensorrt(folder, devkit, flags, tmp_path, monkeypatch, capsys, command):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    arguments = {
        "detect": [str(folder), *flags, "--engine", "tensorrt", "-o", str(tmp_path / "o")],
        "evaluate": ["voc", "--data", str(devkit), *flags, "--engine", "tensorrt"],
        "score": ["--data", str(devkit), *flags, "--engine", "tensorrt"],
        "verify": [*flags[:4], "--against", "tensorrt"],
    }
    assert main([command, *arguments[command]]) == 2
    said = capsys.readouterr().err
    assert "was built without TensorRT, expected TensorrtExecutionProvider and found CPUExecutionProvider" in said
    assert 'pip install "pyscratchdet[tensorrt]" [engine.missing]' in said
    assert not (tmp_path / "o").exists()


@pytest.fixture
def tensorrt(monkeypatch):
    """Makes onnxruntime say that it has TensorRT, and opens what is asked of it on the CPU; returns what was asked."""
    runtime = pytest.importorskip("onnxruntime")
    opened = []

    class Opened(runtime.InferenceSession):
        def __init__(self, model, options, providers, **others):
            no_cpu = options.get_session_config_entry("session.disable_cpu_ep_fallback")
            opened.append((onnx.load_from_string(model), no_cpu, providers, others))
            super().__init__(model, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return [TENSORRT, "CPUExecutionProvider"]

    monkeypatch.setattr(runtime, "get_available_providers", lambda: [TENSORRT, "CPUExecutionProvider"])
    monkeypatch.setattr(runtime, "InferenceSession", Opened)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    return opened


def test_what_tensorrt_is_asked_for(tensorrt, folder, flags, tmp_path, capsys):
    assert main(["detect", str(folder), *flags, "--engine", "tensorrt", "-o", str(tmp_path), "--batch-size", "5"]) == 0
    assert "3 pictures, 3 objects (blue: 2, red: 1)" in capsys.readouterr().out
    assert detections(tmp_path)["engine"].startswith("tensorrt ")
    ((model, no_cpu, providers, others),) = tensorrt
    assert no_cpu == "1"
    assert providers == [(TENSORRT, {"trt_fp16_enable": False, "trt_int8_enable": False})]
    assert others == {"enable_fallback": 0}
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    values = onnx.shape_inference.infer_shapes(model).graph
    kinds = [value.type.tensor_type for value in (*values.input, *values.output)]
    shapes = [[dim.dim_value for dim in kind.shape.dim] for kind in kinds]
    assert shapes[0] == [5, 3, 32, 48]
    assert all(size for shape in shapes for size in shape)


def test_tensorrt_compares_blob_by_blob(tensorrt, flags, capsys):
    assert main(["verify", *flags[:4], "--against", "tensorrt"]) == 0
    ((model, *_),) = tensorrt
    assert all(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)


def test_another_provider_than_asked_for_is_refused(tensorrt, monkeypatch, folder, flags, tmp_path, capsys):
    runtime = sys.modules["onnxruntime"]
    monkeypatch.setattr(runtime.InferenceSession, "get_providers", lambda self: ["CPUExecutionProvider"])
    assert main(["detect", str(folder), *flags, "--engine", "tensorrt", "-o", str(tmp_path / "o")]) == 2
    assert "onnxruntime opened it in CPUExecutionProvider [engine.refused]" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{}, {"batch": 3}, {"heads": "fixed"}])
def test_tensorrt_needs_static_shapes(tensorrt, file, options):
    with pytest.raises(WeightsError, match=r"static shapes.*--heads fixed --batch N.*onnx\.form"):
        OnnxDetection("tensorrt", OnnxDetector.of_file(file(**options)))


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 4])
def test_tensorrt_finds_the_same(detector, block_model, picture, batch):
    runtime = pytest.importorskip("onnxruntime")
    if TENSORRT not in runtime.get_available_providers():
        pytest.skip("this onnxruntime was built without TensorRT")
    other = OnnxDetection("tensorrt", OnnxDetector.of_net(*block_model[:2], batch=batch))
    with_engine = Detector.in_engine(other, block_model[2], preparation=PREPARATION, batch_size=batch)
    alike(with_engine.detect(pictures(picture)), detector.detect(pictures(picture)))


def test_evaluate_names_the_engine(engine, devkit, flags, tmp_path, capsys):
    arguments = ["evaluate", "voc", "--data", str(devkit), "--json", *flags]
    assert main(arguments) == 0
    ours = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--engine", engine, "-o", str(tmp_path / "o"), "--resume", str(tmp_path / "parts")]) == 0
    theirs = json.loads(capsys.readouterr().out)
    assert ours.pop("engine").startswith("torch ")
    title = theirs.pop("engine")
    assert title.startswith(f"{engine} ")
    assert ours == theirs
    assert f"<b>{title}</b><span>engine</span>" in (tmp_path / "o" / "report.html").read_text().replace("\n", "")
    assert main([*arguments, "--resume", str(tmp_path / "parts")]) == 2
    assert "parts of a run with other settings" in capsys.readouterr().err


def test_evaluate_takes_a_file_and_its_labels(file, devkit, flags, capsys):
    assert main(["evaluate", "voc", "--data", str(devkit), "--json", *flags]) == 0
    ours = json.loads(capsys.readouterr().out)
    (devkit / "labelmap.prototxt").unlink()
    arguments = ["evaluate", "voc", "--data", str(devkit), "--weights", str(file())]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ours["classes"]
    assert main([*arguments, "--multi-scale"]) == 2
    assert "only torch takes inputs of several sizes" in capsys.readouterr().err


def test_the_judge_of_coco_may_still_be_called_engine(devkit, flags, tmp_path, capsys):
    from pyscratchdet.evaluate.sets import coco_from_truth, read_voc_truth

    truth = read_voc_truth(devkit / "VOC2007", classes=["blue", "red"])
    (tmp_path / "instances.json").write_text(json.dumps(coco_from_truth(truth)))
    arguments = ["evaluate", "coco", "--data", str(tmp_path / "instances.json"), "--json", *flags]
    arguments += ["--images", str(devkit / "VOC2007" / "JPEGImages")]
    assert main([*arguments, "--engine", "pycocotools"]) == 0
    named = json.loads(capsys.readouterr().out)
    assert named["engine"].startswith("torch ")
    assert main([*arguments, "--engine", "onnxruntime", "--judge", "pycocotools"]) == 0
    assert json.loads(capsys.readouterr().out)["AP"] == pytest.approx(named["AP"], abs=1e-6)  # boxes to a few bits
    assert main([*arguments, "--engine", "pycocotools", "--judge", "faster-coco-eval"]) == 2
    assert "--engine and --judge differ" in capsys.readouterr().err


# --- bf16 ---


@pytest.fixture
def bfloat16(monkeypatch):
    """A CPU that has bfloat16, or claims to: PyTorch computes it anywhere, only slowly."""
    monkeypatch.setattr("pyscratchdet.devices.has_bfloat16", lambda: True)


def test_bf16_finds_the_blocks(bfloat16, folder, flags, tmp_path, capsys):
    assert main(["detect", str(folder), *flags, "--precision", "bf16", "-o", str(tmp_path / "o")]) == 0
    assert "3 objects (blue: 2, red: 1)" in capsys.readouterr().out
    assert detections(tmp_path / "o")["engine"].endswith(", bf16")


def test_bf16_is_a_setting_of_a_run(bfloat16, devkit, flags, tmp_path, capsys):
    arguments = ["evaluate", "voc", "--data", str(devkit), *flags, "--resume", str(tmp_path / "parts")]
    assert main([*arguments, "--precision", "bf16"]) == 0
    assert ", bf16" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "parts of a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["detect", "verify"])
def test_bf16_where_the_cpu_lacks_it(folder, flags, monkeypatch, command, tmp_path, capsys):
    monkeypatch.setattr("pyscratchdet.devices.has_bfloat16", lambda: False)
    arguments = {
        "detect": [str(folder), *flags, "-o", str(tmp_path / "o")],
        "verify": [*flags[:4], "--against", "fast"],
    }
    assert main([command, *arguments[command], "--precision", "bf16"]) == 2
    assert "does not multiply bfloat16 numbers" in capsys.readouterr().err


def test_bf16_where_the_engine_lacks_it(bfloat16, folder, flags, tmp_path, capsys):
    arguments = ["detect", str(folder), *flags, "--precision", "bf16", "-o", str(tmp_path / "o")]
    assert main([*arguments, "--engine", "onnxruntime"]) == 2
    assert "cannot be asked for another precision" in capsys.readouterr().err
    assert main(["verify", *flags[:4], "--precision", "bf16", "--against", "fast", "opencv"]) == 2
    assert "--precision bf16 is for the TEST phase in fast and openvino" in capsys.readouterr().err


def test_what_the_processor_says(monkeypatch, tmp_path):
    from pyscratchdet import devices

    for text, expected in (("flags : fpu avx512_bf16 sse", True), ("flags : fpu avx512f bf16x", False)):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(devices, "Path", lambda name: tmp_path / "cpuinfo")
        devices.has_bfloat16.cache_clear()
        assert devices.has_bfloat16() is expected
    devices.has_bfloat16.cache_clear()
