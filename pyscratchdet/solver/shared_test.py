"""The passes of a test net shared by several processes, with the figures, files and log of a single one.

Process 0 makes the first passes, the next ones follow: each makes some in a row, and its data layers skip the others.
Process 0 then goes through what the others found, in the order of the passes, and does what depends on that order:
DetectionEvaluate, which knows pictures by their number, and the files of DetectionOutput.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor

from pyscratchdet.boxes.detection import Detections
from pyscratchdet.layers.detection_evaluate import DetectionEvaluate
from pyscratchdet.layers.detection_output import DetectionOutput
from pyscratchdet.ranks import World
from pyscratchdet.runtime import LayerModule, Net
from pyscratchdet.solver.resume import CarriedState
from pyscratchdet.solver.testing import Outputs, Pass, passes


@dataclass
class Passed:
    """One pass of a test net.

    Attributes:
        loss: Its loss.
        outputs: The net's outputs.
        kept: By layer: the bottoms of a DetectionEvaluate; the top and the number of pictures of a DetectionOutput.
    """

    loss: np.float32
    outputs: Outputs
    kept: dict[str, Any] = field(default_factory=dict)


def obstacle(net: Net) -> str:
    """Returns why one process must make all passes of a test net; empty if several can share them."""
    if net.input_names:
        return f"the program fills {', '.join(net.input_names)}"
    for module in net.layers:
        where = f'layer "{module.name}" ({module.layer_type})'
        if module.layer.carries_over:
            return f"{where} draws, or goes on from pass to pass"
        if isinstance(module.layer, DetectionEvaluate) and not {*module.node.tops} <= {*net.plan.graph.outputs}:
            return f"other layers take what {where} says"
    return ""


class SharedTest:
    """The passes of a test net, shared by processes that have built the same net with the same weights.

    Args:
        net: A net without an `obstacle`; only process 0's may write files.
        carried: What its layers carry over.
        world: The processes.
    """

    def __init__(self, net: Net, carried: CarriedState, world: World) -> None:
        self._net, self._carried, self._world = net, carried, world
        self._judges = [module for module in net.layers if isinstance(module.layer, DetectionEvaluate)]
        self._savers = [module for module in net.layers if isinstance(module.layer, DetectionOutput)]
        self._kept: dict[str, Any] = {}
        if not world.is_root:
            for module in (*self._judges, *self._savers):
                module.register_forward_hook(self._keep)

    def passes(
        self,
        num_passes: int,
        forward: Callable[[], Pass] | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[np.float32, Outputs]]:
        """Yields what `testing.passes` yields, on process 0; the others make their share, and yield nothing.

        Args:
            num_passes: How many, of all processes together.
            forward: Does one pass; None for the net on its own data.
            is_stopped: Asked before each pass.
        """
        first, last = (num_passes * (self._world.rank + extra) // self._world.size for extra in (0, 1))
        self._carried.skip(first)
        done: list[Passed] = []
        for loss, outputs in passes(self._net, last - first, forward, is_stopped=is_stopped):
            if self._world.is_root:
                yield loss, outputs
            done.append(Passed(loss, outputs, self._kept))
            self._kept = {}
        self._carried.skip(num_passes - first - len(done))
        _, *others = self._world.gather([] if self._world.is_root else done) or [[]]
        for passed in chain.from_iterable(others):
            yield self._made_up(passed)

    def _keep(self, module: LayerModule, bottoms: tuple[Tensor, ...], tops: list[Tensor]) -> None:
        is_judge = isinstance(module.layer, DetectionEvaluate)
        self._kept[module.name] = [bottom.cpu() for bottom in bottoms] if is_judge else (tops[0].cpu(), len(bottoms[0]))

    def _made_up(self, passed: Passed) -> tuple[np.float32, Outputs]:
        """Does what process 0 does for a pass of another process, and returns its loss and outputs."""
        for module in self._savers:
            saver: Any = module.layer
            rows, num_images = passed.kept[module.name]
            saver.save(Detections.of_table(rows.reshape(-1, 7)), num_images)
        judged: Mapping[str, np.ndarray] = {
            self._net.plan.graph.blob_names[module.node.tops[0]]: module(*passed.kept[module.name])[0].numpy()
            for module in self._judges
        }
        outputs = [
            judged.get(name, output) for name, output in zip(self._net.output_names, passed.outputs, strict=True)
        ]
        return passed.loss, outputs


def share_statistics(net: Net, world: World) -> None:
    """Gives the test nets of all processes the BatchNorm statistics of process 0's, and the weights stay shared.

    Each process's train net keeps its own statistics.
    """
    statistics = [entry for entry in net.learnable if entry.is_statistic]
    if not world.is_root:
        for entry in statistics:
            entry.parameter = entry.parameter.clone()
            for module, role in entry.places:
                module.adopt(role, entry.parameter)
    world.broadcast([entry.parameter for entry in statistics])
