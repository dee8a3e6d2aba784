"""What was freed between pieces that stay goes back to the system, where glibc holds it."""

import os
import platform
from pathlib import Path

import pytest

from stream.storage.snapshots import trim_malloc


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is known to hold it")
def test_what_was_freed_below_what_stays_goes_back_to_the_system() -> None:
    trim_malloc()
    before, pieces = resident(), [b"x" * (100_000 + n % 7) for n in range(600)]
    stays = pieces[-1]
    pieces.clear()
    held = resident() - before
    trim_malloc()
    assert resident() - before < held / 2
    assert held > 30_000_000 and len(stays) >= 100_000
