"""`pyscratchdet doctor` and `--version`: what is said of this environment, and of ones that lack something."""

import json
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import pyscratchdet
from pyscratchdet.cli import doctor, main

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
# For this project itself, another name of onnxruntime, and those that gather others.
WORK = {"test", "dev", "docs", "verify", "train", "deploy", "all"}


@pytest.fixture(autouse=True)
def _metadata(monkeypatch):
    """What an installation of this very checkout says it needs."""
    extras = PROJECT["project"]["optional-dependencies"]
    lines = [f"{line.split(';')[0]}; extra == '{name}'" for name, group in extras.items() for line in group]
    monkeypatch.setattr(metadata, "requires", lambda name: [*PROJECT["project"]["dependencies"], *lines])


def states():
    return {check.name: check.state for check in doctor.examine()}


def test_this_environment_is_well(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pyscratchdet"] == pyscratchdet.__version__
    checks = {check["name"]: check for check in found["checks"]}
    for name in ("Python", "torch", "opencv", "CPU", "picture codecs", "LMDB", "engine onnxruntime"):
        assert checks[name]["state"] == "ok", checks[name]
    assert checks["numpy"]["detail"] == metadata.version("numpy")
    assert {"jpg", "png"} <= set(checks["picture codecs"]["detail"].split(", "))


def test_the_table_has_a_line_for_each(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"pyscratchdet {pyscratchdet.__version__}"
    assert lines[1].split() == ["what", "state", "detail"]
    assert len(lines) == 2 + len(states())


def test_version_names_what_matters(capsys):
    assert main(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"pyscratchdet {pyscratchdet.__version__}"
    for name in ("torch", "numpy", "onnx"):
        assert f"{name} {metadata.version(name)}" in second.split(", ")


def test_the_version_is_written_once():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pyscratchdet.__version__"}
    assert "version" in PROJECT["project"]["dynamic"]
    assert "version" not in PROJECT["project"]


def test_every_extra_is_described():
    assert set(doctor.EXTRAS) == set(PROJECT["project"]["optional-dependencies"]) - WORK


def test_what_is_missing_or_too_old_is_said(monkeypatch):
    installed = metadata.version

    def version(name):
        if name in ("h5py", "openvino", "plyvel"):
            raise metadata.PackageNotFoundError(name)
        return "1.9.9rc1" if name in ("torch", "onnxruntime") else installed(name)

    monkeypatch.setattr(metadata, "version", version)
    checks = {check.name: check for check in doctor.examine()}
    assert (checks["h5py"].state, checks["torch"].state, checks["numpy"].state) == ("fault", "fault", "ok")
    assert checks["torch"].detail == "1.9.9rc1; 2.8 or newer is needed"
    assert checks["extra leveldb"].state == checks["extra onnxruntime"].state == "missing"
    assert checks["extra leveldb"].detail == 'LevelDB databases: pip install "pyscratchdet[leveldb]"'
    assert main(["doctor"]) == 1


def test_an_installation_older_than_an_extra(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy>=1.26"])
    assert states()["extra openvino"] == "missing"


@pytest.mark.parametrize(("name", "broken"), [("LMDB", "lmdb"), ("picture codecs", "cv2")])
def test_a_package_that_does_not_import_is_a_fault_and_not_a_crash(monkeypatch, name, broken):
    monkeypatch.setitem(__import__("sys").modules, broken, None)
    assert states()[name] == "fault"
    assert states()["Python"] == "ok"


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2.8", "2.14.1"),
        ("1.26", "2.4.6"),
        ("4.8", "4.14.0.94"),
        ("2.0.8", "2.0.11"),
        ("1.9.9rc1", "2.8"),
        ("0.23", "0.29.1+cpu"),
    ],
)
def test_versions_are_compared_as_numbers(older, newer):
    assert doctor._numbers(older) < doctor._numbers(newer)
