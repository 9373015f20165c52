import errno
import json
import os

import h5py
import numpy as np
import pytest
import torch
from toynet import SOLVER

from pyscratchdet.errors import FileError, PyScratchDetError, SolverError
from pyscratchdet.proto.weights import read_weights
from pyscratchdet.solver import Solver, latest_snapshot, read_state, snapshots
from pyscratchdet.solver.snapshot import SolverState, state_bytes, write_snapshot

HDF5 = "snapshot_format: HDF5 "


def content(path):
    state = read_state(path)
    return [*state.histories, *(a for blobs in read_weights(state.learned_net).blobs.values() for a in blobs)]


def equal(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("more", ["", HDF5, "type: 'Adam' momentum2: 0.99 ", "iter_size: 2 snapshot_diff: true "])
def test_going_on_gives_the_same_bits(toy, tmp_path, more):
    path = toy(more)
    Solver(path).solve()
    whole = {p.name: content(p) for p in snapshots(str(tmp_path / "out/toy"))}
    assert len(whole) == 3
    for name in list(whole)[:2]:
        solver = Solver(path)
        torch.rand(3)  # another stream must not matter
        solver.solve(tmp_path / "out" / name)
        assert equal(content(snapshots(str(tmp_path / "out/toy"))[-1]), list(whole.values())[-1])


def test_plateau_goes_on_from_the_smoothed_loss(toy, tmp_path):
    path = toy("plateau_winsize: 2 plateau_winsize: 3", solver=SOLVER.replace("multistep", "plateau"))
    whole = Solver(path)
    whole.solve()
    rest = Solver(path)
    rest.solve(tmp_path / "out/toy_iter_7.solverstate")
    assert whole.rate == rest.rate
    assert whole.rate.current_step > 0


def test_layout_of_hdf5(tmp_path):
    path = tmp_path / "a.solverstate.h5"
    histories = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([7])]
    path.write_bytes(state_bytes(SolverState(12, "out/a_iter_12.caffemodel.h5", histories, 3, 0.25, 9), hdf5=True))
    with h5py.File(path) as file:
        assert sorted(file) == ["current_step", "history", "iter", "iter_last_event", "learned_net", "minimum_loss"]
        assert file["iter"].shape == (1,)
        assert file["iter"].dtype == np.int32
        # H5LTread_dataset_string needs a terminated string of fixed size.
        kind = file["learned_net"].id.get_type()
        assert kind.get_size() == len("out/a_iter_12.caffemodel.h5") + 1
        assert kind.get_strpad() == h5py.h5t.STR_NULLTERM
        assert list(file["history"]) == ["0", "1"]
    state = read_state(path)
    assert (state.iteration, state.current_step, state.minimum_loss, state.iter_last_event) == (12, 3, 0.25, 9)
    assert state.learned_net == "out/a_iter_12.caffemodel.h5"
    assert equal(state.histories, histories)


def test_diffs_are_written_when_asked_for(toy, tmp_path):
    solver = Solver(toy("snapshot_diff: true " + HDF5))
    solver.step(7)
    with h5py.File(tmp_path / "out/toy_iter_7.caffemodel.h5") as file:
        # As in the original the diff is the update that was subtracted last: the history itself.
        assert np.array_equal(file["diff/fc1/0"][()], solver.optimizer.histories()[0].numpy())
        assert file["diff/fc1/0"][()].any()


@pytest.mark.parametrize("suffix", [".caffemodel", ".solverstate", ".resume"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_snapshot_is_refused_and_an_earlier_one_found(toy, tmp_path, suffix, damage):
    path = toy()
    Solver(path).solve()
    file = tmp_path / f"out/toy_iter_20{suffix}"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0x55
    file.write_bytes({"cut": data[: len(data) * 2 // 3], "flip": data, "empty": b""}[damage])
    with pytest.raises(PyScratchDetError):
        Solver(path).restore(tmp_path / "out/toy_iter_20.solverstate")
    assert latest_snapshot(str(tmp_path / "out/toy")) == tmp_path / "out/toy_iter_14.solverstate"


def test_state_of_another_net_is_refused(toy, tmp_path):
    path = toy()
    Solver(path).solve()
    train = (tmp_path / "train.prototxt").read_text()
    (tmp_path / "train.prototxt").write_text(train.replace("num_output: 5", "num_output: 4"))
    with pytest.raises(PyScratchDetError) as caught:
        Solver(path).restore(tmp_path / "out/toy_iter_14.solverstate")
    assert caught.value.code == "weights.shape"


def test_moved_folder_is_found_again(toy, tmp_path):
    path = toy()
    Solver(path).solve()
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    solver = Solver(path)
    solver.restore(tmp_path / "elsewhere/toy_iter_14.solverstate")
    assert solver.iter == 14
    (tmp_path / "elsewhere/toy_iter_14.caffemodel").unlink()
    with pytest.raises(SolverError, match="does not exist"):
        solver.restore(tmp_path / "elsewhere/toy_iter_14.solverstate")


def test_only_the_last_ones_are_kept(toy, tmp_path):
    path = toy()
    later = tmp_path / "out/toy_iter_99.solverstate"
    later.parent.mkdir()
    later.write_bytes(b"of an earlier run")
    Solver(path, keep=2).solve()
    left = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert left == sorted(
        ["toy_iter_99.solverstate"]
        + [f"toy_iter_{i}.{end}" for i in (14, 20) for end in ("caffemodel", "solverstate", "resume")]
    )


def test_full_disk_leaves_the_last_snapshot_whole(toy, tmp_path, monkeypatch):
    solver = Solver(toy())
    solver.step(7)
    replace = os.replace

    def full(source, target):
        if str(target).endswith(".solverstate"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FileError, match="No space left"):
        solver.step(7)
    assert latest_snapshot(str(tmp_path / "out/toy")) == tmp_path / "out/toy_iter_7.solverstate"
    assert not list((tmp_path / "out").glob(".*"))


def test_prefix_that_cannot_be_written_is_refused_at_once(toy, tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(FileError) as caught:
        Solver(toy())
    assert caught.value.code == "solver.snapshot-prefix"


def test_the_first_check_of_the_prefix_touches_no_file(toy, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "out/toy_iter_0.tempfile").write_text("mine")
    (tmp_path / "out/toy_iter_1.tempfile").symlink_to(tmp_path / "elsewhere")
    Solver(toy())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["toy_iter_0.tempfile", "toy_iter_1.tempfile"]
    assert {path.read_text() for path in (tmp_path / "out").iterdir()} == {"mine"}


@pytest.mark.parametrize("more", ["", HDF5])
def test_weights_and_states_that_are_exchanged_are_told_apart(toy, tmp_path, more):
    end = ".h5" if more else ""
    Solver(toy(more)).step(7)
    weights, state = (tmp_path / f"out/toy_iter_7.{kind}{end}" for kind in ("caffemodel", "solverstate"))
    with pytest.raises(SolverError, match="holds weights, not a solver state; use --weights to start from") as caught:
        Solver(toy(more)).restore(weights)
    assert caught.value.code == "solver.state"
    with pytest.raises(SolverError, match="holds a solver state, not weights; --snapshot resumes from it") as caught:
        Solver(toy(more)).copy_weights(str(state))
    assert caught.value.code == "solver.weights"
    (tmp_path / "text").write_text("neither")
    with pytest.raises(PyScratchDetError, match="not a SolverState"):
        Solver(toy(more)).restore(tmp_path / "text")


def test_resume_file_is_plain_json(toy, tmp_path):
    Solver(toy()).step(7)
    kept = json.loads((tmp_path / "out/toy_iter_7.resume").read_text())
    assert kept["iteration"] == 7
    assert set(kept["sha256"]) == {"model", "state", "run"}


def test_state_is_written_last(tmp_path, monkeypatch):
    model = tmp_path / "a_iter_3.caffemodel"
    model.write_bytes(b"weights")
    order = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(os.path.basename(b)), replace(a, b)))
    write_snapshot(tmp_path / "a_iter_3.solverstate", model, SolverState(3, str(model)), {})
    assert order == ["a_iter_3.resume", "a_iter_3.solverstate"]
