"""Which layers belong to a net: phase, level and stages (net.cpp, Net::FilterNet and Net::StateMeetsRule)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyscratchdet.errors import NetError, Position
from pyscratchdet.proto import caffe_pb2


def net_state(
    net: caffe_pb2.NetParameter, phase: int, level: int = 0, stages: Sequence[str] = ()
) -> caffe_pb2.NetState:
    """Returns the state a net is built in: the caller sets phase and level and adds to the file's own stages."""
    state = caffe_pb2.NetState()
    state.CopyFrom(net.state)
    state.phase = phase
    state.level = level
    state.stage.extend(stages)
    return state


def meets_rule(state: caffe_pb2.NetState, rule: caffe_pb2.NetStateRule) -> bool:
    """Returns whether `state` fits every condition of `rule`; an empty rule always fits."""
    stages = set(state.stage)
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )


def is_included(
    state: caffe_pb2.NetState, layer: caffe_pb2.LayerParameter, locate: Callable[[], Position | None] = lambda: None
) -> bool:
    """Returns whether a layer, whose position `locate` finds for an error, is part of the net in `state`.

    Raises:
        NetError: The layer has both include and exclude rules.
    """
    if layer.include and layer.exclude:
        raise NetError(
            "include rules and exclude rules cannot be mixed",
            code="net.include-exclude",
            position=locate(),
            layer=layer.name,
            layer_type=layer.type,
            hint="keep one kind",
        )
    if layer.include:
        return any(meets_rule(state, rule) for rule in layer.include)
    return not any(meets_rule(state, rule) for rule in layer.exclude)
