"""A few kills of what `make soak` kills hundreds of times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_jobs_go_on():
    script = Path(__file__).with_name("soak.py")
    done = subprocess.run(
        [sys.executable, script, "3", "--seed", "2"], capture_output=True, text=True, env=os.environ, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["database", "training", "evaluation", "soak"]
    assert all("1 kills" in line and "all results equal" in line for line in lines[:3])
    assert "3 kills, every one went on" in lines[3]
