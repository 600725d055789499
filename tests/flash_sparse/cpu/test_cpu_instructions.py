"""The kernels compiled for other instructions than this processor's: random cases, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "test_attention_fuzz.py"
INSTRUCTIONS = {
    "avx2": {"FLASH_SPARSE_CPU": "avx2"},
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_random_cases(name):
    cases = [f"{FUZZ}::test_at_most_twice_the_error_of_torch", f"{FUZZ}::test_gradients_through_the_logsumexp"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cpu", *cases],
        env=os.environ | INSTRUCTIONS[name],
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout
    assert "300 passed" in done.stdout


def test_an_unknown_name_raises():
    done = subprocess.run(
        [sys.executable, "-c", "import flash_sparse.backends.cpu.vectors"],
        env=os.environ | {"FLASH_SPARSE_CPU": "generic"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "FLASH_SPARSE_CPU is 'generic'; expected one of avx512, avx2" in done.stderr
