"""The direction of imports, and what must stay instant."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each room may import from itself, from the helpers every room shares, and from the rooms before it that are listed.
HELPERS = {"devices", "errors", "files", "lazy", "memory", "pages", "progress", "ranks", "rng"}
_RUNTIME = {"proto", "net", "boxes", "data", "layers", "runtime"}
_CAFFE = _RUNTIME | {"detect", "evaluate", "solver", "caffe"}
ROOMS = {
    "proto": set(),
    "net": {"proto"},
    "boxes": {"proto"},
    "data": {"proto", "boxes"},
    "layers": {"proto", "net", "boxes", "data"},
    "runtime": _RUNTIME,
    "detect": _RUNTIME,
    "evaluate": _RUNTIME | {"detect"},
    "solver": _RUNTIME | {"detect", "evaluate"},
    "caffe": _RUNTIME | {"detect", "evaluate", "solver"},
    "converters": _CAFFE,
    "view": _CAFFE,
    "prototxt": {"proto", "net", "layers", "caffe", "data"},
    "experiments": _CAFFE | {"converters", "prototxt"},
}
TORCH_FREE = ["proto", "net", "prototxt"]
PACKAGE = ROOT / "pyscratchdet"


def module_files(room=""):
    """Returns {module name: file} of the package or of a room; converters/ and prototxt/ are linked into it."""
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(PACKAGE / room, followlinks=True)
        for name in names
        if name.endswith(".py")
    ]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported_modules(path):
    """Yields the modules that a file imports."""
    todo = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo += ast.iter_child_nodes(node)


def rooms_of(module):
    parts = module.split(".")
    if parts[0] == "pyscratchdet" and len(parts) > 1:
        yield parts[1]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    files = module_files(room).values()
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


def test_architecture_page_says_what_is_allowed():
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    said, above = {}, set()
    for room, text in rows:
        said[room] = set(re.findall(r"`(\w+)`", text)) | (above if text.startswith("the same") else set())
        above = said[room]
    assert said.pop("cli") == set()
    assert said == {room: others - {room} for room, others in ROOMS.items()}


@pytest.mark.parametrize("room", TORCH_FREE)
def test_no_torch_in_source(room):
    wrong = {
        str(path.relative_to(ROOT))
        for path in module_files(room).values()
        for module in imported_modules(path)
        if module.split(".")[0] in ("torch", "torchvision")
    }
    assert not wrong


def test_every_import_uses_the_installed_names():
    files = [*module_files().values(), *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    wrong = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported_modules(path)
        if module.split(".")[0] in ("converters", "prototxt")
    }
    assert not wrong


def circles(imports):
    """Returns the strongly connected groups of more than one module, by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in imports[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[-len(group) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in imports:
        if module not in index:
            visit(module)
    return found


def test_no_circle_between_modules():
    """Imports inside functions and for annotations count too: two modules that need each other are one."""
    files = module_files()
    imports = {
        name: {
            module
            for module in imported_modules(path)
            # A package and what is in it know each other: its __init__ gathers what its modules offer.
            if module in files and not name.startswith(f"{module}.") and not module.startswith(f"{name}.")
        }
        for name, path in files.items()
    }
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    assert not circles(imports)


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
