"""What ScratchDet's paper and poster print: `printed.toml`, the one place of these numbers."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("printed.toml")


@functools.cache
def tables() -> dict[str, dict[str, Any]]:
    """Returns the tables as the file has them, by experiment."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def rows(experiment: str) -> Iterator[dict[str, Any]]:
    """Yields the cells of an experiment, each with the keys that its table gives to all."""
    table = tables()[experiment]
    common = {key: value for key, value in table.items() if key not in ("title", "cells")}
    for cell in table["cells"]:
        row = {**common, **cell}
        yield {**row, "recipe": row["recipe"].format(name=row["name"])}


def result(recipe: str) -> str:
    """Returns what the paper prints for a recipe, as one line: the first row that tests it at a single scale."""
    for row in (row for experiment in tables() for row in rows(experiment) if row["recipe"] == recipe):
        if not row["values"]:
            return "not in the paper"
        values = dict(zip(row["metrics"], row["values"].split(), strict=True))
        metric = "AP" if "AP" in values else "mAP"
        score = "diverges" if values[metric] == "NAN" else f"{values[metric]} {metric} on {row['test']}"
        return f"ScratchDet {row['place'].split(',')[0]}: {score}"
    raise KeyError(recipe)
