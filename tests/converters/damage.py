"""Files of every form that weights come in, damaged by a seed: each is read, or refused by a typed error.

    python tests/converters/damage.py [--number 2000] [FORM...]

prints what came of that many files of each form. Anything but a typed error ends the run with its traceback. Files that
can hold pickles hold one which would leave a mark, so that code that runs is seen.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from small_nets import detector, small_net, write_net

from pyscratchdet.converters.engines import Recording
from pyscratchdet.converters.onnx_import import import_onnx
from pyscratchdet.converters.solver_state import state_from_torch, state_to_torch
from pyscratchdet.converters.weights import convert_weights
from pyscratchdet.errors import PyScratchDetError
from pyscratchdet.solver.snapshot import SolverState, state_bytes


class Marker:
    """Leaves a file where its pickle is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


class Bench:
    """A folder with one whole file of each form.

    Args:
        folder: Where files are made; left as it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = folder / "mark"
        self.deploy, caffemodel = write_net(folder, detector())
        for name in ("net.safetensors", "net.pt", "net.onnx", "net.h5"):
            convert_weights(caffemodel, folder / name, self.deploy)
        (folder / "plain").mkdir()
        plain, plain_model = write_net(folder / "plain")
        convert_weights(plain_model, folder / "graph.onnx", plain)
        blobs = [entry.parameter.detach().numpy() for entry in small_net(detector()).learnable]
        state = SolverState(120, "net_iter_120.caffemodel", blobs, 2, 0.5, 80)
        (folder / "net.solverstate").write_bytes(state_bytes(state))
        (folder / "net.solverstate.h5").write_bytes(state_bytes(state, hdf5=True))
        state_to_torch(folder / "net.solverstate", folder / "state.pt", self.deploy)
        np.savez(folder / "net.npz", **{"in:data": np.ones((2, 3), "f4"), "out:a": np.arange(5.0)})
        with_object = {"in:data": np.ones((2, 3), "f4"), "out:a": np.array([Marker(self.mark)], object)}
        np.savez(folder / "pickled.npz", **with_object)
        torch.save({"state_dict": {"conv1.weight": Marker(self.mark)}}, folder / "pickled.pt")
        (folder / "raw.pt").write_bytes(pickle.dumps({"state_dict": Marker(self.mark)}))

    def read(self, form: str, path: Path) -> None:
        """Reads a file as its command would."""
        if form == "npz":
            Recording(path)
        elif form == "onnx-graph":
            import_onnx(path)
        elif form.startswith("solverstate"):
            state_to_torch(path, self.folder / "out.pt", self.deploy)
        elif form == "state-pt":
            state_from_torch(path, self.folder / "out.solverstate")
        else:
            target = "out.safetensors" if form in ("caffemodel", "h5") else "out.caffemodel"
            convert_weights(path, self.folder / target, self.deploy)

    def _refusal(self, form: str, path: Path) -> PyScratchDetError | None:
        try:
            self.read(form, path)
        except PyScratchDetError as error:
            return error
        return None

    def damage(self, form: str, number: int) -> Counter[str]:
        """Reads `number` damaged files and counts what came of it: "read", or the code of the error."""
        sources = [(self.folder / name).read_bytes() for name in FORMS[form]]
        rng = np.random.default_rng(sum(form.encode()))
        suffix = Path(FORMS[form][0]).name.partition(".")[2]
        found: Counter[str] = Counter()
        for index in range(number):
            path = self.folder / f"bad.{suffix}"
            path.write_bytes(mutated(sources[index % len(sources)], rng))
            before = {item.name for item in self.folder.iterdir()}
            refusal = self._refusal(form, path)
            found["read" if refusal is None else refusal.code] += 1
            if refusal is not None:
                assert {item.name for item in self.folder.iterdir()} == before, "a refused file left another behind"
                assert "\n" not in str(refusal), refusal
            for name in ("out.pt", "out.solverstate", "out.safetensors", "out.caffemodel"):
                (self.folder / name).unlink(missing_ok=True)
        assert not self.mark.exists(), "code in a file was run"
        return found


FORMS: dict[str, list[str]] = {
    "caffemodel": ["model.caffemodel"],
    "h5": ["net.h5"],
    "safetensors": ["net.safetensors"],
    "pt": ["net.pt", "pickled.pt", "raw.pt"],
    "npz": ["net.npz", "pickled.npz"],
    "onnx": ["net.onnx"],
    "onnx-graph": ["graph.onnx"],
    "solverstate": ["net.solverstate"],
    "solverstate.h5": ["net.solverstate.h5"],
    "state-pt": ["state.pt", "pickled.pt"],
}


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns `data` with changed bytes, cut short, with a piece doubled or left out, or with a run of one value."""
    changed = bytearray(data)
    place = int(rng.integers(len(changed)))
    if rng.random() < 0.6:  # beginnings are where the danger is, and in zip and HDF5 files ends
        place = place % 700 if rng.random() < 0.6 else max(0, len(changed) - 1 - place % 700)
    kinds: list[Callable[[], None]] = [
        lambda: _change(changed, place, rng),
        lambda: changed.__delitem__(slice(place, None)),
        lambda: changed.__setitem__(slice(place, place), changed[place : place + int(rng.integers(1, 99))]),
        lambda: changed.__setitem__(slice(place, place + 8), bytes([int(rng.choice([0, 255, 127]))]) * 8),
        lambda: changed.__delitem__(slice(place, place + int(rng.integers(1, 30)))),
    ]
    kinds[int(rng.integers(len(kinds)))]()
    return bytes(changed)


def _change(data: bytearray, place: int, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 9))):
        data[(place + int(rng.integers(64))) % len(data)] = int(rng.integers(256))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("forms", nargs="*", metavar="FORM", help=f"{', '.join(FORMS)} (default: all)")
    parser.add_argument("--number", type=int, default=2000)
    args = parser.parse_args()
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for form in args.forms or FORMS:
            found = bench.damage(form, args.number)
            counts = ", ".join(f"{code} {count}" for code, count in found.most_common())
            print(f"{form}: {args.number} files: {counts}", flush=True)


if __name__ == "__main__":
    main()
