import pytest
from toynet import SOLVER, TRAIN


@pytest.fixture
def toy(tmp_path):
    """Writes a small net whose data and dropout are random, and its solver; returns the solver's path."""

    def write(more="", train=TRAIN, solver=SOLVER):
        (tmp_path / "train.prototxt").write_text(train)
        path = tmp_path / "solver.prototxt"
        path.write_text(solver.format(folder=tmp_path) + more)
        return str(path)

    return write
