"""The folder datasets/ never stands in the way of the Hugging Face library `datasets`, in a checkout or a wheel."""

import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import flash_sparse_datasets

ROOT = Path(__file__).parents[2]
PACKAGE = Path(flash_sparse_datasets.__file__).parent

pytestmark = pytest.mark.skipif(PACKAGE.parent != ROOT / "datasets", reason="not run from a checkout")


@pytest.fixture
def theirs(tmp_path):
    """An environment in which a library `datasets` is installed, like a site-packages at the end of the path."""
    (tmp_path / "site" / "datasets").mkdir(parents=True)
    (tmp_path / "site" / "datasets" / "__init__.py").write_text("theirs = True\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "site")}


def run(arguments, env, cwd=ROOT):
    done = subprocess.run([sys.executable, *arguments], env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CHECK = "import datasets; assert datasets.theirs; print('theirs')"


def test_from_the_command_line(theirs):
    assert run(["-c", CHECK], theirs) == "theirs\n"
    assert run(["-c", f"import flash_sparse_datasets; {CHECK}"], theirs) == "theirs\n"
    assert run(["-c", "import flash_sparse_datasets.own_files as o; print(o.__name__)"], theirs) == (
        "flash_sparse_datasets.own_files\n"
    )


def test_from_a_script(theirs, tmp_path):
    (tmp_path / "script.py").write_text(CHECK)
    assert run([tmp_path / "script.py"], theirs) == "theirs\n"
    # A script in the root has the root as the first entry of its path, before everything that is installed.
    in_root = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {CHECK}"
    assert run(["-c", in_root], theirs, cwd=tmp_path) == "theirs\n"


@pytest.mark.slow
def test_under_pytest(theirs, tmp_path):
    (tmp_path / "test_theirs.py").write_text(f"def test_theirs():\n    {CHECK}\n")
    options = ["-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT]
    assert "1 passed" in run(["-m", "pytest", *options, tmp_path / "test_theirs.py"], theirs)
    # and with this folder's own tests collected before it
    tests = [Path(__file__).parent / "test_own_files.py", tmp_path / "test_theirs.py"]
    assert "passed" in run(["-m", "pytest", *options, *tests, "-k", "theirs or symbolic"], theirs)


def test_without_their_library_the_folder_is_no_package():
    """Only an empty namespace can be imported by that name: nothing that could be taken for the library."""
    assert not (ROOT / "datasets" / "__init__.py").exists()
    assert not (ROOT / "tests" / "datasets" / "__init__.py").exists()


@pytest.mark.parametrize("folder", ["apps", "datasets"])
def test_no_door_shadows_a_module_when_it_is_run_by_its_path(folder):
    assert not (ROOT / folder / "__init__.py").exists()
    for path in (ROOT / folder).glob("*.py"):
        assert path.stem not in sys.stdlib_module_names
        assert path.stem not in ("torch", "numpy", "datasets", "transformers", "tokenizers")


@pytest.mark.parametrize("package", ["flash_sparse", "flash_sparse_apps", "flash_sparse_datasets"])
def test_a_folder_bears_its_import_name(package):
    folder = Path(importlib.import_module(package).__file__).parent
    assert folder.name == package
    assert list(importlib.import_module(package).__path__) == [str(folder)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy, so that the checkout gets no build folder."""
    pytest.importorskip("setuptools", "77")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "configs", "datasets", "apps", "flash_sparse"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    run(["-c", code, source / "dist"], dict(os.environ), cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_the_wheel_has_no_top_level_datasets_or_apps(wheel):
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith((".dist-info", ".data"))} == {
        "flash_sparse",
        "flash_sparse_apps",
        "flash_sparse_datasets",
    }


def test_the_wheel_has_the_recipes(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for recipe in (ROOT / "configs").rglob("*.yaml"):
        assert any(name.endswith(f"share/flash-sparse/{recipe.relative_to(ROOT).as_posix()}") for name in names)


def test_an_unpacked_wheel_works(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(30)))
    code = (
        "import flash_sparse_datasets as d, flash_sparse_datasets.python_stdlib as p\n"
        "print(d.__file__, p.__file__, len(d.load('a.csv').train), d.load('python-stdlib').name, sep='\\n')"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "unpacked")}
    package, module, rows, name = run(["-c", code], env, cwd=tmp_path).splitlines()
    assert Path(package).is_relative_to(tmp_path / "unpacked")
    assert Path(module) == tmp_path / "unpacked" / "flash_sparse_datasets" / "python_stdlib.py"
    assert (rows, name) == ("24", "python-stdlib")
