"""Which nets a solver file asks for, and in which state (solver.cpp: InitTrainNet, InitTestNets)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyscratchdet.errors import FileError, Position, SolverError
from pyscratchdet.layers.plan import NetFile, read_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.upgrade import upgrade_net

TRAIN_FIELDS = ("net", "net_param", "train_net", "train_net_param")


@dataclass
class NetChoice:
    """One net of a solver.

    Attributes:
        net: The net.
        phase, level, stages: Its state; the stages come on top of the file's own.
        source: Where it comes from, for the log.
    """

    net: NetFile
    phase: int
    level: int
    stages: list[str]
    source: str


def train_net(param: caffe_pb2.SolverParameter, path: str | os.PathLike[str] = "") -> NetChoice:
    """Returns the net to train.

    Args:
        param: The solver's settings.
        path: The solver file, for messages.

    Raises:
        SolverError: None or several are named.
        FileError, PrototxtError: The net file is missing or invalid.
    """
    named = [name for name in TRAIN_FIELDS if param.HasField(name)]
    if len(named) != 1:
        raise SolverError(
            "a solver must name one train net",
            code="solver.train-net",
            expected=f"one of {', '.join(TRAIN_FIELDS)}",
            found=", ".join(named) or "none",
        )
    value = getattr(param, named[0])
    source = f"{named[0]} file: {value}" if isinstance(value, str) else f"{named[0]}."
    return _choice(_net(value, source, path), caffe_pb2.TRAIN, param.train_state, source)


def test_nets(param: caffe_pb2.SolverParameter, path: str | os.PathLike[str] = "") -> list[NetChoice]:
    """Returns the test nets: those given inline, then those in files, then copies of the generic net.

    Args:
        param: The solver's settings.
        path: The solver file, for messages.

    Raises:
        SolverError: test_iter, test_state or test_interval do not match them.
        FileError, PrototxtError: A net file is missing or invalid.
    """
    given = len(param.test_net_param) + len(param.test_net)
    generic = param.HasField("net") or param.HasField("net_param")
    number = len(param.test_iter)
    if number < given or (number > given and not generic):
        raise SolverError(
            "test_iter must be given once per test net", code="solver.test-iter", expected=given, found=number
        )
    if param.test_state and len(param.test_state) != number:
        raise SolverError(
            "test_state must be left out or given once per test net",
            code="solver.test-state",
            expected=number,
            found=len(param.test_state),
        )
    if number and param.test_interval <= 0:
        raise SolverError("test nets need a test_interval above 0", code="solver.test-interval")
    states = param.test_state or [caffe_pb2.NetState()] * number
    return [
        _choice(_net(value, source, path), caffe_pb2.TEST, state, source)
        for (value, source), state in zip(_test_sources(param), states, strict=True)
    ]


def first_test_net(param: caffe_pb2.SolverParameter, path: str | os.PathLike[str] = "") -> NetChoice | None:
    """Returns the first test net without reading the others; None if there is none.

    Args:
        param: The solver's settings.
        path: The solver file, for messages.

    Raises:
        FileError, PrototxtError: The net file is missing or invalid.
    """
    found = next(_test_sources(param), None)
    if found is None:
        return None
    value, source = found
    state = param.test_state[0] if param.test_state else caffe_pb2.NetState()
    return _choice(_net(value, source, path), caffe_pb2.TEST, state, source)


def _test_sources(param: caffe_pb2.SolverParameter) -> Iterator[tuple[caffe_pb2.NetParameter | str, str]]:
    for inline in param.test_net_param:
        yield inline, "test_net_param"
    for path in param.test_net:
        yield path, f"test_net file: {path}"
    for _ in range(len(param.test_iter) - len(param.test_net_param) - len(param.test_net)):
        if param.HasField("net_param"):
            yield param.net_param, "net_param"
        elif param.HasField("net"):
            yield param.net, f"net file: {param.net}"


def _net(value: caffe_pb2.NetParameter | str, source: str, solver: str | os.PathLike[str]) -> NetFile:
    if not isinstance(value, str):
        return NetFile(upgrade_net(value))
    if not Path(value).exists():
        beside = Path(solver).parent / value
        raise FileError(
            f"no file {value}, which is the solver's {source.partition(' ')[0]}",
            code="file.read",
            position=Position(os.fspath(solver)) if solver else None,
            hint="paths in a solver are relative to the working folder"
            + (f"; did you mean {beside}?" if beside.exists() else ""),
        )
    return read_net(value)


def _choice(net: NetFile, phase: int, wanted: caffe_pb2.NetState, source: str) -> NetChoice:
    """Merges states: the default phase, over it the net's own, over both the solver's."""
    state = caffe_pb2.NetState(phase=phase)
    state.MergeFrom(net.param.state)
    state.MergeFrom(wanted)
    return NetChoice(net, state.phase, state.level, list(wanted.stage), source)
