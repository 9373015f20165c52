"""docs/layers.md is what scripts/layer_table.py writes, as far as the classes say it."""

import importlib.util
from pathlib import Path

from pyscratchdet.layers.base import layer_types

ROOT = Path(__file__).parents[2]


def test_the_page_is_current():
    spec = importlib.util.spec_from_file_location("layer_table", ROOT / "scripts" / "layer_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    lines = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    expected = [script.description(name, cls) for name, cls in layer_types().items()]
    assert [row[:7] for row in rows[1:]] == expected, "run: python scripts/layer_table.py"
