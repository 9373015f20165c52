"""Freed memory is kept: allocating anew what was just freed touches no new pages."""

import subprocess
import sys

import pytest

# Two arrays of 48 MiB, freed and made again; 24576 pages, where none is kept.
SCRIPT = """
import resource
import numpy as np
from pyscratchdet.memory import keep_freed_memory

keep_freed_memory()
def work():
    first, second = np.full(12 << 20, 1.0, np.float32), np.full(12 << 20, 2.0, np.float32)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's parameters")
def test_a_second_pass_faults_no_pages():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 100  # Python's own
