"""The shell scripts: plain calls of the command line, and clean."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("*.sh"))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    assert SCRIPTS
    done = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_without_arguments_a_script_says_what_is_missing(script, tmp_path):
    shell = script.read_text(encoding="utf-8").splitlines()[0].split()[-1].removeprefix("#!/bin/")
    assert subprocess.run([shell, "-n", script]).returncode == 0
    if script.name == "demo.sh":
        return  # it needs none
    done = subprocess.run([shell, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.strip()
    assert not list(tmp_path.iterdir())


def test_the_dockerfile_copies_what_is_there():
    """No Docker builds it here: that its sources exist and are all of the package is what can be known."""
    root = Path(__file__).parents[2]
    lines = (root / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert all((root / name).exists() for name in copied)
    linked = {path.name for path in (root / "pyscratchdet").iterdir() if path.is_symlink()}
    assert linked | {"pyscratchdet", "pyproject.toml", "README.md", "LICENSE"} == set(copied)
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (installed,) = (line for line in lines if "/source[" in line)
    assert installed.split("[")[1].split("]")[0] in extras
