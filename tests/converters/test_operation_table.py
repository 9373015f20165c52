"""docs/operations.md is what scripts/operation_table.py writes."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("operation_table", ROOT / "scripts" / "operation_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python scripts/operation_table.py"
