"""How much a file may become when it is unpacked."""

import pytest

from pyscratchdet.errors import FileError, UsageError
from pyscratchdet.files import UNPACKED_VARIABLE, check_unpacked

MIB = 1 << 20


def test_a_file_may_hold_256_mib_or_100_times_its_size():
    check_unpacked(256 * MIB, 900, "a.h5")
    check_unpacked(700 * MIB, 7 * MIB, "a.h5")
    with pytest.raises(
        FileError, match=r"a\.h5: 900 bytes that would become 257 MiB, expected at most 256 MiB"
    ) as caught:
        check_unpacked(257 * MIB, 900, "a.h5")
    assert (caught.value.code, caught.value.hint) == (
        "file.unpacked",
        "if the file can be trusted, set PYSCRATCHDET_MAX_UNPACKED_MIB to the number of MiB to allow",
    )
    with pytest.raises(FileError):
        check_unpacked(701 * MIB, 7 * MIB, "a.h5")


def test_the_limit_can_be_raised(monkeypatch):
    monkeypatch.setenv(UNPACKED_VARIABLE, "1000")
    check_unpacked(1000 * MIB, 900, "a.h5")
    monkeypatch.setenv(UNPACKED_VARIABLE, "much")
    with pytest.raises(UsageError, match="is not a number, found much"):
        check_unpacked(1, 900, "a.h5")
