"""Importing `flash_sparse` needs torch alone, and is quick beside it."""

import subprocess
import sys

CODE = """
import sys, torch
before = set(sys.modules)
import flash_sparse
added = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print(*added)
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_adds_nothing_but_itself_and_the_standard_library_to_torch():
    added = set(run(CODE).split())
    assert "flash_sparse" in added
    assert {name for name in added if name not in sys.stdlib_module_names} == {"flash_sparse"}


def test_works_where_nothing_else_is_installed():
    """Attention itself too: forward and backward without Triton, transformers, Lightning or SciPy."""
    blocked = ("triton", "transformers", "lightning", "scipy", "sklearn", "matplotlib", "tokenizers", "pyarrow")
    run(
        f"""
import sys
for name in {blocked}:
    sys.modules[name] = None  # importing it raises ImportError
import torch, flash_sparse
rows = torch.randn(1, 2, 40, 8, requires_grad=True)
flash_sparse.attention(rows, rows, rows, flash_sparse.patterns.local(40, 16)).sum().backward()
"""
    )


def test_public_names():
    run(
        """
import flash_sparse
assert {"attention", "attention_varlen", "BlockLayout", "patterns"} <= set(flash_sparse.__all__)
for name in flash_sparse.__all__:
    getattr(flash_sparse, name)
"""
    )


def test_compilers_come_with_the_first_call_on_a_cpu():
    run(
        """
import sys, torch, flash_sparse
compilers = {"numba", "llvmlite"}
assert not compilers & set(sys.modules)
rows = torch.randn(1, 1, 4, 8)
flash_sparse.attention(rows, rows, rows, backend="reference")
assert not compilers & set(sys.modules)
flash_sparse.attention(rows, rows, rows)
assert compilers <= set(sys.modules)
"""
    )
