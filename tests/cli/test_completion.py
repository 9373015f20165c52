"""Completion in a shell: bash completes commands, flags, recipes and files by the script that is written for it."""

import shutil
import subprocess
import sys

import pytest

from pyscratchdet import prototxt
from pyscratchdet.cli import COMMANDS, main

# Calls the function as bash does after TAB, and prints what it would offer.
TAB = """set -e
source completion.bash
COMP_WORDS=({words}) COMP_CWORD={index}
_shtab_pyscratchdet
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    script = folder / "completion.bash"
    command = [sys.executable, "-m", "pyscratchdet", "completion", "bash"]
    script.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    (folder / "net.prototxt").touch()
    (folder / "data").mkdir()
    return folder


def offered(folder, *words):
    quoted = " ".join(f"'{word}'" for word in ("pyscratchdet", *words))
    script = TAB.format(words=quoted, index=len(words))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=folder)
    return done.stdout.split()


def test_commands(folder):
    assert set(COMMANDS) <= set(offered(folder, ""))
    assert offered(folder, "ev") == ["evaluate"]


def test_flags_are_each_offered_once(folder):
    flags = offered(folder, "train", "--s")
    assert {"--solver", "--snapshot", "--stage", "--schema"} <= set(flags)
    assert len(flags) == len(set(flags))
    assert "-solver" not in offered(folder, "train", "-s")
    assert offered(folder, "evaluate", "voc", "--multi") == ["--multi-scale"]


def test_values(folder):
    assert offered(folder, "generate", "ssd300_z") == ["ssd300_zf_voc0712"]
    assert set(offered(folder, "generate", "")) >= set(prototxt.entries())
    assert offered(folder, "time", "--phase", "") == ["TRAIN", "TEST"]
    assert offered(folder, "summary", "n") == ["net.prototxt"]
    assert offered(folder, "detect", "--weights", "ne") == ["net.prototxt"]
    assert offered(folder, "generate", "--data", "") == ["data"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_scripts(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "extract-features" in script.read_text()
    if path := shutil.which(shell):
        assert subprocess.run([path, "-n", script]).returncode == 0
