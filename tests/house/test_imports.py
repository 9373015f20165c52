"""The direction of imports, and what must stay instant."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each room may import from itself, from the helpers every room shares, and from the rooms listed here.
HELPERS = {"errors", "files", "lazy", "rng"}
ROOMS = {
    "proto": set(),
    "net": {"proto"},
    "boxes": {"proto"},
    "data": {"proto", "boxes"},
    "layers": {"proto", "net", "boxes", "data"},
    "runtime": {"proto", "net", "boxes", "layers"},
    "evaluate": {"proto", "net", "boxes", "layers", "data", "runtime"},
    "solver": {"proto", "net", "boxes", "layers", "data", "runtime", "evaluate"},
    "caffe": {"proto", "net", "boxes", "layers", "data", "runtime", "evaluate", "solver"},
    "converters": {"proto", "net", "boxes", "layers", "data", "runtime", "evaluate", "solver", "caffe"},
    "prototxt": {"proto", "net", "layers", "caffe", "data"},
}
TORCH_FREE = ["proto", "net", "prototxt"]


def folder(room):
    return ROOT / room if room in ("converters", "prototxt") else ROOT / "pyscratchdet" / room


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(module):
    parts = module.split(".")
    if parts[0] in ("converters", "prototxt"):
        yield parts[0]
    elif parts[0] == "pyscratchdet" and len(parts) > 1:
        yield parts[1]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    files = list(folder(room).rglob("*.py"))
    assert files
    known = ROOMS[room] | HELPERS | {room, "__version__"}
    wrong = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported_modules(path)
        for other in rooms_of(module)
        if other not in known and other in {*ROOMS, "cli"}
    }
    assert not wrong


@pytest.mark.parametrize("room", TORCH_FREE)
def test_no_torch_in_source(room):
    wrong = {
        str(path.relative_to(ROOT))
        for path in folder(room).rglob("*.py")
        for module in imported_modules(path)
        if module.split(".")[0] in ("torch", "torchvision")
    }
    assert not wrong


def modules_after(code):
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import pyscratchdet, pyscratchdet.proto.text, pyscratchdet.proto.weights, pyscratchdet.net",
        "from pyscratchdet.layers import layer_types; assert layer_types()",
        "from pyscratchdet.layers.plan import plan_net",
        "import pyscratchdet.caffe as caffe; caffe.NetSpec, caffe.layers, caffe.params, caffe.model_libs",
        "import tempfile; from pyscratchdet.cli import main; name = 'scratchdet300_rootres18_voc0712'\n"
        "with tempfile.TemporaryDirectory() as folder: assert main(['generate', name, '-o', folder]) == 0",
    ],
)
def test_torch_is_not_imported(code):
    assert "torch" not in modules_after(code)


def test_help_imports_nothing_heavy():
    code = (
        "import contextlib, io; from pyscratchdet.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): assert main(['--help']) == 0"
    )
    assert not {"torch", "numpy", "cv2", "google.protobuf", "rich"} & set(modules_after(code))
