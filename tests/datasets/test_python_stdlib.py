"""The default dataset: import statements are gone, exactly; labels, splits and order are the same everywhere."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest

from flash_sparse_datasets import DataError, load, python_stdlib
from flash_sparse_datasets.python_stdlib import remove_imports


@pytest.fixture(scope="module")
def dataset():
    return load("python-stdlib")


def documents_of(dataset):
    return [d for split in (dataset.train, dataset.validation, dataset.test) for d in split]


@pytest.mark.parametrize(
    ("source", "text", "modules"),
    [
        ("import os\nx = 1\n", "x = 1\n", {"os"}),
        ("import os.path as p, sys\n", "", {"os", "sys"}),
        ("from os.path import (\n    join,  # a ) comment\n    split,\n)\nx\n", "x\n", {"os"}),
        ("from a import b, \\\n    c\nx\n", "x\n", {"a"}),
        ("from \\\n  a import b\nx\n", "x\n", {"a"}),
        ("from . import b\nfrom .c import d\nfrom...e import f\n", "", set()),
        ("from __future__ import annotations\n", "", set()),
        ("from a import*\nx\n", "x\n", {"a"}),
        ("from a import(b)\n", "", {"a"}),
        ("def f():\n\timport os\n\treturn os\n", "def f():\n\treturn os\n", {"os"}),
        ("if x: import a\n", "if x: \n", {"a"}),
        ("x; import a; y\n", "x; ; y\n", {"a"}),
        ("import a  # why\n", "  # why\n", {"a"}),
        ("try:\n    import a\nexcept ImportError:\n    a = None\n", "try:\nexcept ImportError:\n    a = None\n", {"a"}),
        ("x = 1\nimport os", "x = 1\n", {"os"}),
        ('"""\nimport os\n"""\n# import sys\n', '"""\nimport os\n"""\n# import sys\n', set()),
        ("s = 'import os'; r = r'\\'; import a'\n", "s = 'import os'; r = r'\\'; import a'\n", set()),
        ("'''a \\''' import os ''' + \"\"\"b ' \" \"\"\"\n", "'''a \\''' import os ''' + \"\"\"b ' \" \"\"\"\n", set()),
        ('s = f"{x!r:>{w}} import {y}"\n', 's = f"{x!r:>{w}} import {y}"\n', set()),
        ("__import__('os')\nimportlib.import_module('a')\n", "__import__('os')\nimportlib.import_module('a')\n", set()),
        (
            "raise A from e\nyield_from = 1\ny = (yield from z)\n",
            "raise A from e\nyield_from = 1\ny = (yield from z)\n",
            set(),
        ),
    ],
)
def test_import_statements_are_removed(source, text, modules):
    assert remove_imports(source) == (text, frozenset(modules))


def removed_by_syntax_tree(source):
    """The same by the positions in the syntax tree, blank lines and all white space aside."""
    data = source.encode()
    starts = [0]
    for line in data.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = [node for node in ast.walk(ast.parse(data)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = set()
    for node in sorted(nodes, key=lambda node: (-node.lineno, -node.col_offset)):
        end = starts[node.end_lineno - 1] + node.end_col_offset
        data = data[: starts[node.lineno - 1] + node.col_offset] + data[end:]
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif not node.level:
            modules.add(node.module.split(".")[0])
    return data.decode().split(), modules - {"__future__"}


@pytest.mark.slow
def test_the_syntax_tree_agrees(dataset):
    root = Path(sysconfig.get_path("stdlib"))
    documents = sorted(documents_of(dataset), key=lambda document: document.id)[::4]
    assert len(documents) > 50
    for document in documents:
        source = python_stdlib._read(root, document.id)
        text, modules = remove_imports(source)
        assert (text.split(), modules) == removed_by_syntax_tree(source), document.id
        assert text == document.text
        assert set(document.labels) == modules.intersection(dataset.labels)


def test_size_and_labels(dataset):
    documents = documents_of(dataset)
    assert dataset.task == "multi-label"
    assert len(documents) == len({d.id for d in documents}) >= 200
    assert 20 <= len(dataset.labels) <= 50
    assert list(dataset.labels) == sorted(dataset.labels)
    assert {"os", "re", "sys"} <= set(dataset.labels)
    assert "__future__" not in dataset.labels
    shares = [len(split) / len(documents) for split in (dataset.train, dataset.validation, dataset.test)]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.04)
    counts = Counter(label for document in dataset.train for label in document.labels)
    assert min(counts.values()) >= 0.04 * len(dataset.train)
    assert set(counts) == set(dataset.labels)
    assert all(len(document.text.split()) >= 100 for document in documents)
    assert any(not document.labels for document in documents)
    assert sum(len(document.text.split()) > 5000 for document in documents) > 20  # long ones
    assert not [d.id for d in documents if d.id.startswith(("site-packages/", "encodings/", "lib2to3/tests/data/"))]
    assert f"{len(documents):,} documents" in dataset.description


def test_each_split_may_be_read_again(dataset):
    assert list(dataset.test) == list(dataset.test)
    assert len(list(dataset.test)) == len(dataset.test)


def test_quick_to_prepare():
    begin = time.process_time()
    load("python-stdlib")
    assert time.process_time() - begin < 10


def test_the_same_in_another_process_with_another_hash_seed(dataset):
    code = (
        "import flash_sparse_datasets as d; s = d.load('python-stdlib'); print(s.fingerprint, [x.id for x in s.test])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{dataset.fingerprint} {[d.id for d in dataset.test]}"


@pytest.fixture
def small_library(tmp_path, dataset, monkeypatch):
    """Thirty files of the library, copied, for which thirty is enough."""
    monkeypatch.setattr(python_stdlib, "MIN_FILES", 30)
    for document in list(dataset.train)[::20][:30]:
        target = tmp_path / "lib" / document.id
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(sysconfig.get_path("stdlib")) / document.id, target)
    return tmp_path / "lib"


def test_what_is_no_document(small_library):
    before = load("python-stdlib", root=small_library)
    words = "word " * 200
    for name in (
        "site-packages/a.py",
        "dist-packages/a.py",
        "encodings/a.py",
        "lib2to3/tests/data/a.py",
        "config-3.11/a.py",
        "_sysconfigdata_x.py",
        "sitecustomize.py",
        "bad_coding.py",
        "notes.txt",
    ):
        (small_library / name).parent.mkdir(parents=True, exist_ok=True)
        (small_library / name).write_text(f"# {words}\n")
    (small_library / "tiny.py").write_text("import os\n")
    (small_library / "cookie.py").write_text(f"# -*- coding: no-such-code -*-\n# {words}\n")
    (small_library / "bytes.py").write_bytes(b"# caf\xe9 " + words.encode())
    assert load("python-stdlib", root=small_library).fingerprint == before.fingerprint


def test_copies_stay_in_one_split_and_encodings_are_read(small_library):
    for i in range(40):
        (small_library / f"copy{i}.py").write_text("import os\n" + " " * i + "# " + "same " * 200 + "\n")
    (small_library / "latin.py").write_bytes(b"# coding: latin-1\nimport re\n# " + b"caf\xe9 " * 200)
    dataset = load("python-stdlib", root=small_library)
    splits = [
        any(document.id.startswith("copy") for document in split)
        for split in (dataset.train, dataset.validation, dataset.test)
    ]
    assert sum(splits) == 1
    assert "café" in next(d.text for d in documents_of(dataset) if d.id == "latin.py")


def test_content_changes_the_fingerprint(small_library):
    before = load("python-stdlib", root=small_library)
    path = small_library / next(iter(before.train)).id
    path.write_text(path.read_text() + "# one more word\n")
    assert load("python-stdlib", root=small_library).fingerprint != before.fingerprint


def test_too_few_files(tmp_path):
    (tmp_path / "a.py").write_text("# word " * 200)
    for root in (tmp_path, tmp_path / "missing", tmp_path / "python311.zip"):
        with pytest.raises(DataError, match=f"{root.name}: [01] usable source files .* expected at least 200"):
            load("python-stdlib", root=root)


def test_unknown_options():
    with pytest.raises(ValueError, match="python-stdlib has no option 'text_field'; it has: root"):
        load("python-stdlib", text_field="x")


def test_the_script_prints_statistics():
    command = [sys.executable, Path(__file__).parents[2] / "datasets" / "prepare.py", "python-stdlib"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("python-stdlib: multi-label, ")
    assert {"train", "validation", "test", "os"} <= {line.split(" ")[0] for line in done.stdout.splitlines()}
    done = subprocess.run([*command, "--root", "nowhere"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
