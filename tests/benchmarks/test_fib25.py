"""The bundled network on real data that it was not trained on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fib25_rand.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_bundled_network_segments_fib25(real_data: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--data", real_data], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(done.stdout.splitlines()[-1].split()[-3]) < 0.40
