"""What stands in for Caffe's programs and scripts, for those who type their names out of habit."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pyscratchdet.caffe.runner import TOOLS

# What `caffe` is followed by.
_BREWS = {"train": "train", "test": "test", "time": "time", "device_query": "doctor"}
_OTHERS = {
    "create_annoset": "lmdb",
    "create_list": "lmdb voc",
    "create_data": "lmdb voc",
    "score_ssd_pascal": "score",
    "score_ssd_coco": "score",
    "ssd_detect": "detect",
    "ssd_pascal_video": "detect",
    "ssd_pascal_webcam": "detect",
    "draw_net": "draw-net",
    "parse_log": "plot-log",
    "plot_training_log": "plot-log",
    "train_net": "train",
    "finetune_net": "train",
    "test_net": "test",
    "net_speed_benchmark": "time",
}


def hint(words: Sequence[str]) -> str | None:
    """Returns what a command line that begins with one of Caffe's names is here; None for other names."""
    file = os.path.basename(words[0])
    name = re.sub(r"\.(bin|sh|py|example)+$", "", file)
    if name == "caffe":
        name = next((word for word in words[1:] if word in _BREWS), "train")
    command = _BREWS.get(name) or TOOLS.get(name) or _OTHERS.get(name)
    if command:
        return f"here it is `pyscratchdet {command}`"
    return f"`python -m pyscratchdet.caffe {file}` runs a script written for Caffe" if file.endswith(".py") else None
