"""Flags in gflags' manner, as the tools of Caffe take them: -flag F, --flag F, -flag=F, --flag=F."""

from __future__ import annotations

import argparse
from typing import Any


def add_flag(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Adds one flag with one dash and with two."""
    parser.add_argument(f"-{name}", f"--{name}", **settings)


def add_net_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags by which a net's layers are chosen, and the device."""
    add_flag(parser, "gpu", default="", metavar="IDS", help='device numbers such as 0,1, or "all" (default: the CPU)')
    add_flag(parser, "level", type=int, default=0, metavar="N", help="level for min_level and max_level rules")
    add_flag(parser, "stage", default="", metavar="NAME,...", help="stages for stage and not_stage rules")
