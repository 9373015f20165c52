"""benchmarks/gpu.sh: all that waits for a GPU, tried on the CPU with small sizes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.sh"


def run(*arguments, **environment):
    """Runs the script with this Python; returns its status, stdout and stderr."""
    made = subprocess.run(
        [SCRIPT, *map(str, arguments)],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return made.returncode, made.stdout, made.stderr


def test_packages_that_lack_are_named(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    status, out, err = run("--device", "cpu", PYTHON=str(bare), PYTHONPATH="")
    assert (status, out) == (2, "")
    assert {"torch", "numpy", "protobuf", "lmdb", "opencv-python-headless"} <= set(err.splitlines())
    assert f"pip download --no-deps --only-binary=:all: --python-version {sys.version_info[0]}." in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(tmp_path):
    status, _, err = run("--output", tmp_path / "x.md")
    assert status == 2
    assert "PyTorch finds no CUDA device" in err
    assert not (tmp_path / "x.md").exists()


def test_a_part_that_fails_is_loud_and_the_others_stay(tmp_path):
    status, out, err = run("--device", "cpu", "--small", "--parts", "blood-cells,data", "--bccd", tmp_path / "none",
                           "--output", tmp_path / "x.md")  # fmt: skip
    assert status == 1
    assert err.endswith("failed: blood-cells\n")
    assert "## A training\n\nFAILED: exit status 1" in out
    assert "| workers | pictures/s |" in out
    assert (tmp_path / "x.md").read_text() + "\n" == out


@pytest.mark.slow
def test_all_other_parts_run_small(tmp_path):
    parts = "agreement,blood-cells,training,detection"
    status, out, err = run("--device", "cpu", "--small", "--parts", parts, "--output", tmp_path / "x.md")
    assert status == 0, err
    assert out.count("\n## ") == 4
    assert "agree on all 88 gradients" in out
    assert "A process group of one on cpu" in out
    assert "6 iterations" in out
