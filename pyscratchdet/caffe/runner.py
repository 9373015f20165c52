"""Runs a script that was written for Caffe and Python 2: its imports, its language and its calls to Caffe's tools.

The script sees this package as `caffe`. Where it starts `build/tools/caffe` (SSD's scripts write a job file and call
it), the same command of `pyscratchdet` runs in its place. Paths in a script are relative to the folder it is run in,
which for the original is the Caffe root.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pyscratchdet.caffe import model_libs, net_spec, python2
from pyscratchdet.caffe.missing import MissingFileError
from pyscratchdet.caffe.model_libs.fork import FORKS
from pyscratchdet.errors import FileError, Position, PyScratchDetError
from pyscratchdet.files import read_bytes

# Names that only one published model_libs has: those a script uses show where it comes from.
_TELLTALES = {
    "refinedet": {"CreateRefineDetHead", "DeconvBNLayer", "EltwiseLayer"},
    "scratchdet": {"Resnet34rootV2_res", "Resnet18rootV2", "ResNet50Body", "VGGNetBNBody"},
}

# Caffe's programs by file name, and the command that stands in for each; `caffe` is followed by its own command.
TOOLS = {
    "caffe": "",
    "compute_image_mean": "compute-image-mean",
    "convert_annoset": "lmdb",
    "convert_imageset": "lmdb",
    "create_label_map": "create-label-map",
    "extract_features": "extract-features",
    "get_image_size": "get-image-size",
    "upgrade_net_proto_binary": "upgrade-net",
    "upgrade_net_proto_text": "upgrade-net",
    "upgrade_solver_proto_text": "upgrade-solver",
}
_BUILDERS = re.compile(r"(-m pyscratchdet\s+(?:train|test|time|extract-features))\b")
_TOOL = re.compile(rf"[\w./$~-]*build/tools/({'|'.join(TOOLS)})(?:\.bin)?(?=[\s\\\"']|$)")


def main(arguments: Sequence[str]) -> int:
    """Runs `[--fork NAME] [--no-train] [--gpu IDS] script.py arguments...`.

    Returns:
        The script's own exit status; 2 where the input was bad.
    """
    parser = argparse.ArgumentParser(prog="python -m pyscratchdet.caffe", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--fork", choices=FORKS, help="whose model_libs to use; default: found by the names that the script uses"
    )
    parser.add_argument("--no-train", action="store_true", help="write all files, start none of Caffe's tools")
    parser.add_argument("--gpu", metavar="IDS", help='devices to use instead of those the script names; "" for the CPU')
    parser.add_argument("script", help="Python 2 or 3")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own arguments")
    args = parser.parse_args(arguments)
    try:
        return run_script(args.script, args.arguments, args.fork, Tools(args.no_train, args.gpu))
    except PyScratchDetError as error:
        if error.code == "caffe.device":
            error.hint = 'give --gpu "" before the script to run it on the CPU'
        print(f"pyscratchdet.caffe: {error}", file=sys.stderr)
        return 2


def run_script(path: str, arguments: Sequence[str], fork: str | None, tools: Tools) -> int:
    """Runs a script in this process and returns its exit status.

    Raises:
        PyScratchDetError: The script cannot be read, or its input is bad.
    """
    source = read_bytes(path).decode("utf-8", "replace")
    tree = python2.parse(source, path)
    is_python3 = python2.is_python3(tree)
    code = python2.compile_tree(tree, path)
    folder = os.path.dirname(os.path.abspath(path))
    finder = _CaffeFinder(fork or guess_fork(tree), [] if fork else [os.path.join(folder, "python"), "python", folder])
    install(finder, folder, tools)

    module = ModuleType("__main__")
    module.__file__ = path
    if not is_python3:
        vars(module).update(python2.list_names())
    sys.modules["__main__"] = module
    sys.argv = [path, *arguments]
    sys.path[0] = folder
    try:
        exec(code, vars(module))
    except SystemExit as end:
        return _status(end)
    except PyScratchDetError as error:
        error.position = error.position or _place(error, path)
        if isinstance(error, MissingFileError):
            error.hint = _hint(error.filename)
        raise
    except FileNotFoundError as error:
        raise FileError(
            f"no such file: {error.filename}",
            code="script.missing-file",
            position=_place(error, path),
            hint=_hint(error.filename),
        ) from error
    return 0


def _status(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _place(error: Exception, path: str) -> Position:
    """Returns the line of the script in which an error occurred."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return Position(path, lines[-1].lineno or 0, text=lines[-1].line or "") if lines else Position(path)


def _hint(file: object) -> str | None:
    if os.path.isabs(str(file)):
        return None
    return f"relative paths start from {os.getcwd()}; the original is run in its Caffe root"


def guess_fork(tree: ast.AST) -> str:
    """Returns the published version whose functions a script calls; ssd if it calls none that only others have."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return next((fork for fork, names in _TELLTALES.items() if names & used), "ssd")


def install(finder: _CaffeFinder, folder: str, tools: Tools) -> None:
    """Makes this process look like one with Caffe: modules, built-in names, and its programs."""
    model_libs.use_fork(finder.fork)
    model_libs.check_if_exist = _check_if_exist
    vars(builtins).update(python2.names())
    os.environ.setdefault("HOME", os.path.expanduser("~"))
    sys.modules["caffe"] = importlib.import_module("pyscratchdet.caffe")
    if tools.gpu == "":
        vars(sys.modules["caffe"])["set_mode_gpu"] = lambda: None
    sys.modules["caffe.layers"] = net_spec.layers  # type: ignore[assignment]
    sys.modules["caffe.params"] = net_spec.params  # type: ignore[assignment]
    sys.meta_path[:0] = [finder, _ScriptFinder(folder)]
    subprocess.Popen = tools.popen_class()  # type: ignore[misc,assignment]
    os.system = tools.system  # type: ignore[assignment]


def _check_if_exist(path: str) -> bool:
    """Does the published check, whose result no script uses, and reports what is missing."""
    if os.path.exists(path):
        return True
    print(f"pyscratchdet.caffe: {path} does not exist in {os.getcwd()} (yet)", file=sys.stderr)
    return False


class _CaffeFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """`caffe.x` is `pyscratchdet.caffe.x`, the same module object, or the module of a fork's own python/caffe.

    A fork's own modules are its model_libs, which each fork changes, and those that this package lacks.

    Args:
        fork: Whose published model_libs stand in where there is no other.
        folders: Where to look for a fork's package `caffe` after sys.path, and in the last one, the script's own, for
            its model_libs.py, too; empty to look nowhere.
    """

    def __init__(self, fork: str, folders: Sequence[str]) -> None:
        self.fork = fork
        self._folders = folders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if not name.startswith("caffe."):
            return None
        is_model_libs = name == "caffe.model_libs"
        if self._folders and (is_model_libs or not _is_found(_real_name(name))) and (file := self._file(name)):
            print(f"pyscratchdet.caffe: {name} is {file}", file=sys.stderr)
            return importlib.util.spec_from_file_location(name, file, loader=_ScriptLoader(name, file))
        if is_model_libs:
            print(f"pyscratchdet.caffe: model_libs as {self.fork} published it", file=sys.stderr)
        return importlib.machinery.ModuleSpec(name, self)

    def _file(self, name: str) -> str | None:
        parts = name.split(".")
        files = [os.path.join(folder, *parts) + ".py" for folder in (*sys.path, *self._folders)]
        if name == "caffe.model_libs":
            files.append(os.path.join(self._folders[-1], "model_libs.py"))
        return next((os.path.abspath(file) for file in files if os.path.isfile(file)), None)

    def create_module(self, spec: Any) -> ModuleType:
        module = importlib.import_module(_real_name(spec.name))
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _real_name(name: str) -> str:
    return "pyscratchdet.proto.caffe_pb2" if name == "caffe.proto.caffe_pb2" else f"pyscratchdet.{name}"


def _is_found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


# What is installed is Python 3.
_INSTALLED = tuple({folder + os.sep for folder in sysconfig.get_paths().values()})


class _ScriptFinder(importlib.abc.MetaPathFinder):
    """Modules beside the script, or in folders that it adds to sys.path, are read as the script itself is.

    Modules in other folders, such as those of PYTHONPATH, are Python 3 unless Python 3 cannot parse them.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known = set(sys.path)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        spec = None if name.startswith("pyscratchdet.") else importlib.machinery.PathFinder.find_spec(name, path)
        origin = os.path.abspath(spec.origin) if spec and spec.origin else ""
        if spec is None or not origin.endswith(".py") or origin.startswith(_INSTALLED) or "-packages" in origin:
            return None
        own = [self._folder, *(os.path.abspath(folder) for folder in sys.path if folder not in self._known)]
        is_own = origin.startswith(tuple(folder + os.sep for folder in own))
        spec.loader = _ScriptLoader(name, origin, is_own)
        return spec


class _ScriptLoader(importlib.machinery.SourceFileLoader):
    """Reads a module as Python 2, where it is not clearly Python 3.

    Args:
        name: The module.
        path: Its file.
        is_own: Whether it is the script's; others are Python 2 only where Python 3 cannot parse them.
    """

    def __init__(self, name: str, path: str, is_own: bool = True) -> None:
        super().__init__(name, path)
        self._is_own = is_own

    def exec_module(self, module: ModuleType) -> None:
        if not self._is_own:
            try:
                code = self.get_code(module.__name__)
            except SyntaxError:
                code = None
            if code is not None:
                exec(code, vars(module))
                return
        tree = python2.parse(self.get_data(self.path).decode("utf-8", "replace"), self.path)
        if not python2.is_python3(tree):
            vars(module).update(python2.list_names())
        exec(python2.compile_tree(tree, self.path), vars(module))


class Tools:
    """Caffe's programs, wherever the script starts one.

    Args:
        no_train: Start none of them.
        gpu: Replaces the --gpu that a script gives, such as "0"; "" for the CPU, None to keep the script's.
    """

    def __init__(self, no_train: bool = False, gpu: str | None = None) -> None:
        self._no_train = no_train
        self.gpu = gpu

    def popen_class(self) -> type[subprocess.Popen[Any]]:
        """Returns a Popen that sends Caffe's programs to pyscratchdet."""
        tools = self

        class Popen(subprocess.Popen):  # type: ignore[type-arg]
            def __init__(self, args: Any, *rest: Any, **options: Any) -> None:
                super().__init__(tools.command(args), *rest, **options)

        return Popen

    def system(self, command: str) -> int:
        """Stands in for os.system."""
        return subprocess.call(command, shell=True)

    def command(self, args: Any) -> Any:
        """Returns the command to run in place of `args`: a string for the shell or a list, as it came."""
        is_text = isinstance(args, str)
        words = shlex.split(args) if is_text else [os.fspath(word) for word in args]
        job = next((word for word in words[:2] if os.path.isfile(word) and self._is_job(word)), None)
        text = args if is_text else shlex.join(words)
        if job is None and not _TOOL.search(text):
            return args
        if self._no_train:
            print(f"pyscratchdet.caffe: not started (--no-train): {job or text}", file=sys.stderr)
            return "true" if is_text else ["true"]
        if job is None:
            text = substitute(text, self.gpu)
            return text if is_text else shlex.split(text)
        return f"sh {shlex.quote(self._substituted(job))}" if is_text else ["sh", self._substituted(job)]

    def _is_job(self, path: str) -> bool:
        data = read_bytes(path)
        return len(data) < 1 << 20 and b"\0" not in data and bool(_TOOL.search(data.decode("utf-8", "replace")))

    def _substituted(self, job: str) -> str:
        text = substitute(Path(job).read_text(), self.gpu)
        with tempfile.NamedTemporaryFile("w", suffix=".sh", prefix="job", delete=False) as file:
            # The copy removes itself when it is done.
            file.write(f"{text}\nstatus=$?; rm -f {shlex.quote(file.name)}; exit $status\n")
        return file.name


def substitute(text: str, gpu: str | None = None) -> str:
    """Returns a shell command with Caffe's programs replaced by pyscratchdet's commands, and other devices if given."""

    def stand_in(match: re.Match[str]) -> str:
        command = TOOLS[match.group(1)]
        return f"{shlex.quote(sys.executable)} -m pyscratchdet {command}".rstrip()

    # Caffe's programs run Python layers, and whoever runs a script trusts what it imports.
    text = _BUILDERS.sub(r"\1 --allow-python", _TOOL.sub(stand_in, text))
    return text if gpu is None else re.sub(r"--?gpu[ =][\w,]+", f"--gpu {gpu}" if gpu else "", text)
