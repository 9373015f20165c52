"""Damaged files of every form are read or refused by a typed error; `python damage.py` tries 2,000 of each."""

import pytest
from damage import FORMS, Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("damage"))


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_end_in_typed_errors(bench, form):
    found = bench.damage(form, 40)
    assert sum(found.values()) == 40
    assert found["read"] < 40
