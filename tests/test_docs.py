"""The pages in docs/: Python runs, commands run small or are understood, links lead somewhere, the site builds."""

import ast
import functools
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINKING = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
DRAWINGS = sorted((ROOT / "docs" / "images").glob("*.svg"))
HOW_IT_WORKS = ROOT / "docs" / "how-it-works.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def blocks(page: Path, kind: str) -> list[str]:
    """The page's fenced blocks of a language."""
    return [block for found, block in FENCE.findall(page.read_text(encoding="utf-8")) if found == kind]


def commands(page: Path) -> list[str]:
    """The commands of its shell blocks, one each; lines that end in a backslash go on."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    bare = [re.split(r"\s#\s", line)[0].strip() for line in lines]
    return [command for line in bare if line and not line.startswith("#") for command in line.split(" && ")]


# Python


WRITTEN = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_python_runs_from_top_to_bottom(page: Path, tmp_path):
    (tmp_path / "page.py").write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    command = [sys.executable, "-W", "error", tmp_path / "page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_pages_that_teach_have_python_to_run():
    assert {ROOT / "docs" / "attention.md", HOW_IT_WORKS} <= set(WRITTEN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_data_can_be_read(page: Path):
    for block in blocks(page, "json"):
        for line in block.splitlines():
            json.loads(line)
    for block in blocks(page, "yaml"):
        yaml.safe_load(block)
    known = {"", "python", "sh", "json", "yaml", "text"}
    assert {kind for kind, _ in FENCE.findall(page.read_text(encoding="utf-8"))} <= known


# commands


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


def run(arguments: list[str]) -> Done:
    """This Python with these arguments, without a GPU."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    return Done(done.returncode, done.stdout, done.stderr)


class Commands:
    """Checks a command of a page: runs it in small, or as far as it goes without what it is about."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture):
        self.folder, self.capsys = folder, capsys

    def check(self, command: str):
        words = shlex.split(command)
        while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            check_setting(words.pop(0).partition("=")[0])
        if words[0] == "export":
            check_setting(words[1].partition("=")[0])
        elif words[0] == "pip":
            check_pip(words)
        elif words[0] == "torchrun":
            script = next(place for place, word in enumerate(words) if word.startswith("apps/"))
            self.check(shlex.join(["python", *words[script:]]))
        elif words[:2] == ["python", "-c"]:
            assert run(words[1:]).code == 0
        elif words[:3] == ["python", "-m", "pytest"]:
            done = run([*words[1:], "--collect-only", "-q"])
            assert done.code == 0, done.stdout
        elif words[:3] == ["python", "-m", "flash_sparse.backends.triton.tune"]:
            check_missing(run(words[1:]), "GPU")
        else:
            assert words[0] == "python", words
            assert (ROOT / words[1]).is_file(), words
            self.check_app(Path(words[1]).stem, words)

    def check_app(self, app: str, words: list[str]):
        if app in ("classify", "sweep", "curriculum"):
            done = self.here([*words, "--print-config"])
            assert done.code == 0, done.stderr
            assert "seq-len" in done.stdout
        elif app in ("predict", "serve", "results"):
            check_missing(self.here(words), words[2])
        elif app == "benchmark":
            self.check_benchmark(words)
        else:
            assert app == "prepare"
            self.check_prepare(words)

    def here(self, words: list[str]) -> Done:
        """A command of apps/ or datasets/ in this process, which saves the seconds in which a new one begins."""
        app = Path(words[1]).stem
        module = importlib.import_module(f"flash_sparse_{'datasets' if app == 'prepare' else 'apps'}.{app}")
        self.capsys.readouterr()
        try:
            code = module.main(words[2:])
        except SystemExit as end:
            code = end.code
        return Done(code, *self.capsys.readouterr())

    def check_benchmark(self, words: list[str]):
        """On a CPU it runs small, once for all sizes; for a GPU, it says that there is none."""
        if "cuda" in words:
            check_missing(run(words[1:]), "cuda")
            return
        if "--lengths" in words:  # compiling its contenders takes long: it is read as far as to what cannot be
            check_missing(self.here([*words, "--repeats", "0"]), "--repeats is 0")
            return
        small = "--lengths 64 --head-dims 16 --heads 1 --densities 1/2 --threads 1 --repeats 1"
        if "--steps" in words:
            small = "--lengths 64 --tokens 64 --width 16 --depth 1 --heads 1 --block-size 16 --window 16 --repeats 1"
        done = run([*words[1:], *small.split(), "--output", str(self.folder)])
        assert done.code == 0, done.stderr
        assert list(self.folder.glob("*.md"))

    def check_prepare(self, words: list[str]):
        """Help is printed, checkers miss their files, generators generate a little."""
        if "--help" in words:
            assert self.here(words).stdout.startswith("usage:")
        elif "--root" in words:
            check_missing(self.here(words), words[words.index("--root") + 1])
        else:
            small = {
                "pathfinder": "--count 2 --size 32",
                "listops": "--train-size 4 --validation-size 2 --test-size 2 --min-length 3 --max-length 40",
            }[words[2]]
            target = words.index("--sheet" if "--sheet" in words else "--output") + 1
            words[target] = str(self.folder / Path(words[target]).name)
            done = self.here([*words, *small.split()])
            assert done.code == 0, done.stderr
            assert Path(words[target]).exists()


def check_missing(done: Done, what: str):
    """It ended with one line that names what is not there."""
    assert done.code == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert what in done.stderr


def check_pip(words: list[str]):
    """It names extras that there are, and files."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    extras = re.findall(r"^(\w+) = \[", project.split("[project.scripts]")[0], re.MULTILINE)
    for word in words:
        if found := re.search(r"\[(.*)\]", word):
            assert set(found[1].split(",")) <= set(extras), word
    if "-c" in words:
        assert (ROOT / words[words.index("-c") + 1]).is_file()


def check_setting(name: str):
    """A variable that the project reads, or a library that it stands on."""
    ours = "".join(path.read_text() for path in (ROOT / "flash_sparse").rglob("*.py"))
    assert name in ours or name in {
        *("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
        "NODE_RANK",  # with MASTER_ADDR and MASTER_PORT, of Lightning
    }


@pytest.mark.parametrize(
    "command", [pytest.param(command, id=f"{page.name}: {command}") for page in PAGES for command in commands(page)]
)
def test_commands_run_small(command: str, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    Commands(tmp_path, capsys).check(command)


def test_the_job_for_slurm_begins_a_run_and_goes_on_with_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    [job] = [block for block in blocks(ROOT / "docs" / "scaling.md", "text") if "#SBATCH" in block]
    done = subprocess.run(["bash", "-n"], input=job, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    resume, begin = re.findall(r"srun (python .*)", job.replace("\\\n", " "))
    assert resume == "python apps/classify.py --resume $run"
    Commands(tmp_path, capsys).check(begin)


def test_messages_that_are_explained_are_in_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").split("## Messages")[1]
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 10
    folders = ("flash_sparse", "apps/flash_sparse_apps", "datasets/flash_sparse_datasets")
    code = [path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for message in messages:
        assert any(message in text for text in code), message


# links and drawings


@functools.cache
def anchors(page: Path) -> set[str]:
    """What GitHub lets `#` name on a page: its headings, in lower case, with hyphens for spaces."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if n == 0 else f"{slug}-{n}" for slug, last in found.items() for n in range(last + 1)}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    astray = []
    for words, target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        if re.match(r"https?:", target):
            continue
        if not words or not there.exists() or (anchor and anchor not in anchors(there)):
            astray.append(target)
    assert not astray


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Speed on a GPU\n## `metrics.json`, whole\n```sh\n# no heading\n```\n## Labels\n## [Labels](x.md)\n"
    )
    assert anchors(page) == {"speed-on-a-gpu", "metricsjson-whole", "labels", "labels-1"}


@functools.cache
def names(file: Path) -> set[str]:
    """Functions, classes and values that a module has at its top."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_functions_are_in_the_files_that_are_linked(page: Path):
    for words, target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if target.endswith(".py") and re.fullmatch(r"`\w+`", words):
            assert words.strip("`") in names((page.parent / target).resolve()), f"{words} in {target}"


def test_how_it_works_names_both_backends():
    targets = [target for words, target in LINK.findall(HOW_IT_WORKS.read_text(encoding="utf-8")) if words[0] == "`"]
    for backend in ("triton", "cpu"):
        assert sum(f"backends/{backend}/" in target for target in targets) > 10


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)
def test_drawings_are_shown_read_aloud_and_have_both_colours(drawing: Path):
    svg = "{http://www.w3.org/2000/svg}"
    root = xml.etree.ElementTree.parse(drawing).getroot()
    assert root.findtext(f"{svg}title")
    assert root.findtext(f"{svg}desc")
    assert "prefers-color-scheme: dark" in root.findtext(f"{svg}style")
    assert any(f"](images/{drawing.name})" in page.read_text(encoding="utf-8") for page in PAGES)


# the site


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs the extra [docs]")
    command = ["-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = run(command)
    assert done.code == 0, done.stderr
    for page in PAGES:
        name = "index" if page.stem == "README" else page.stem
        assert (tmp_path / "site" / f"{name}.html").is_file()
    written = (tmp_path / "site" / "how-it-works.html").read_text(encoding="utf-8")
    assert 'href="source/flash_sparse/backends/cpu/walk.html"' in written
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    for name in ("flash_sparse.attention", "flash_sparse.patterns.bigbird", "flash_sparse.nn.Encoder"):
        assert f'id="{name}"' in api


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        assert page.name == "README.md" or f"({page.name})" in index


def test_the_image_is_made_of_what_is_there():
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = " ".join(line.rpartition(" ")[0] for line in re.findall(r"^COPY ([^-].*)$", dockerfile, re.MULTILINE))
    assert {"pyproject.toml", "constraints.txt", "flash_sparse", "apps", "datasets"} <= set(copied.split())
    for name in copied.split():
        assert (ROOT / name).exists(), name
    (extras,) = re.findall(r"'\.\[(.*)\]'", dockerfile)
    assert set(extras.split(",")) == {"serve", "documents"}  # the page takes PDF, Word and HTML files
