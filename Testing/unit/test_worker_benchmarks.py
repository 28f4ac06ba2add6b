"""The abuse bench holds in its short form. (The timing benches need a quiet machine: `medgen bench roundtrip`.)"""

import sys

import pytest

from medgen.benchmarks import worker_chaos


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
def test_nothing_is_lost_or_leaked_under_abuse() -> None:
    result = worker_chaos.run(quick=True)
    assert result["passed"], result["details"]
    assert result["details"]["killed"] and result["details"]["cancelled"] and result["details"]["bad_input"]
