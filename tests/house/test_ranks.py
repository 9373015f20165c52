"""The processes of one run: shares, messages, and what the others see when one ends."""

import subprocess
import sys

import pytest
import torch

from pyscratchdet.devices import choose_device
from pyscratchdet.errors import UsageError
from pyscratchdet.ranks import ProcessGroup, World, end_launched, joined

RANKS = """
import json, sys
import torch
from pyscratchdet.errors import SolverError
from pyscratchdet.ranks import end_launched, joined
with joined(torch.device("cpu")) as world:
    mine = [index for index in range(10) if world.owns(index)]
    told = world.share(f"from {world.rank}")
    gathered = world.gather((world.rank, mine))
    if world.is_root:
        print(json.dumps([world.size, told, world.agree(3), gathered]), flush=True)
    else:
        assert (told, world.agree(world.rank), gathered) == ("from 0", 3, [])
    if sys.argv[1] == "one ends" and world.rank == 2:
        sys.exit("a fault of its own")
    try:
        world.agree(0)
    except SolverError as error:
        sys.exit(str(error))
end_launched()
"""


def torchrun(path, *words):
    path.write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", path, *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_three_processes_share_and_gather(tmp_path):
    done = torchrun(tmp_path / "ranks.py", "all end")
    assert done.returncode == 0, done.stderr
    expected = '[3, "from 0", 3, [[0, [0, 3, 6, 9]], [1, [1, 4, 7]], [2, [2, 5, 8]]]]\n'
    assert done.stdout == expected


@pytest.mark.slow
def test_a_process_that_ends_is_reported(tmp_path):
    done = torchrun(tmp_path / "ranks.py", "one ends")
    assert done.returncode != 0
    assert "a fault of its own" in done.stderr
    assert "another process of this run has ended" in done.stderr
    assert "[solver.distributed]" in done.stderr


def test_one_process_has_everything():
    with joined(torch.device("cpu")) as world:
        assert type(world) is World
        assert all(world.owns(index) for index in range(5))
        assert (world.share("x"), world.gather("x"), world.agree(2)) == ("x", ["x"], 2)
    end_launched()  # goes on


def test_an_environment_that_is_not_torchruns(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"cannot find each other: .*start with torchrun \[solver\.distributed\]"):
        ProcessGroup(torch.device("cpu"))


def test_each_process_of_a_machine_has_its_own_device(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    for rank, device in (("0", "cuda:2"), ("1", "cuda:0"), ("2", "cuda:2")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert choose_device("2,0") == torch.device(device)
