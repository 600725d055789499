"""Files, models and command lines that nobody meant: an answer or one line of why not, and nothing else is written."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hostile import damaged, files_below, is_one_line, names, slowly, values
from hypothesis import given
from hypothesis import strategies as st

from flash_sparse_apps import classify, predict, serve, sweep
from flash_sparse_apps.command_line import make_parser, parse
from flash_sparse_datasets.prepare import main as prepare

from .conftest import TINY

pytestmark = pytest.mark.slow

KEPT = Path(__file__).with_name("kept_model") / "model"
ROWS = [{"id": f"number {i}", "text": f"word1 keyword{i % 4}", "label": "ab"[i % 2]} for i in range(6)]


def run(command: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> tuple[object, str, str]:
    """What a command returns or exits with, its stdout and its stderr; any other exception is one of the program."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = command(arguments)
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue(), err.getvalue()


def is_refusal(err: str) -> bool:
    return err.startswith("error: ") and err.endswith("\n") and is_one_line(err)


def test_names_are_no_paths(tmp_path):
    """Of documents and labels: whatever they are, a run writes into its folders alone."""
    labels = ("../../outside", str(tmp_path / "outside"), "a/b\\c", "..", "CON", "a\nb", "~/x")
    for number in range(70):
        row = {"id": f"../../{number}", "text": f"word{number} keyword{number % 7}", "label": labels[number % 7]}
        with open(tmp_path / "rows.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
    folders = ("--cache-dir", str(tmp_path / "cache"), "--output", str(tmp_path / "run"))
    given = ("--dataset", str(tmp_path / "rows.jsonl"), "--id-field", "id", *folders, *TINY, "--epochs", "1")
    before = files_below(tmp_path.parent)
    assert run(classify.main, given)[0] == 0
    assert json.loads((tmp_path / "run" / "model" / "classifier.json").read_text())["labels"] == sorted(labels)
    new = files_below(tmp_path.parent).keys() - before.keys()
    assert {Path(path).parts[:2] for path in new} == {(tmp_path.name, "cache"), (tmp_path.name, "run")}


# Files to label


@st.composite
def tables(draw, delimiter: str) -> bytes:
    written = io.StringIO()
    lines = csv.writer(written, delimiter=delimiter)
    lines.writerow(["id", "text", "label"])
    for row in draw(rows()):
        lines.writerow([str(cell) for cell in row.values()] if isinstance(row, dict) else [str(row)])
    return written.getvalue().encode(errors="surrogatepass")


@st.composite
def rows(draw) -> list:
    strange = st.one_of(values, st.fixed_dictionaries({"id": values, "text": values}))
    return [*ROWS, *draw(st.lists(strange, max_size=3))]


FILES = {
    "a.jsonl": rows().map(lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode()),
    "a.json": rows().map(lambda rows: json.dumps(rows).encode()),
    "a.csv": tables(","),
    "a.tsv": tables("\t"),
    "a.txt": values.map(lambda text: str(text).encode(errors="surrogatepass")),
    "a.html": values.map(lambda text: f"<p>{text}<b>bold".encode(errors="surrogatepass")),
    "a.jsonl.gz": rows().map(lambda rows: gzip.compress("\n".join(map(json.dumps, rows)).encode(), mtime=0)),
}
FLAGS = {
    "--text-field": st.sampled_from(["text", "id", "[text, id]", "text.a"]) | names,
    "--id-field": st.sampled_from(["id", "text"]) | names,
    "--file-field": names,
    "--second-field": names,
    "--encoding": st.sampled_from(["utf-8", "utf-16", "cp1252", "utf-7"]) | names,
    "--delimiter": st.sampled_from([";", "tab", "|"]) | names,
    "--columns": st.sampled_from(["[id, text, label]", "[a, b]"]) | names,
    "--format": st.sampled_from(["jsonl", "csv", "wide-csv", "xlsx", "table"]) | names,
    "--top-k": st.sampled_from(["1", "2", "0", "null"]) | names,
    "--tokens-per-batch": st.sampled_from(["1", "100", "-1"]) | names,
    "--output": st.sampled_from(["out.jsonl", "out.csv", "out.xlsx", "out", "a.jsonl", "new/out.jsonl", ".", ""]),
}


def typed(text: str) -> str:
    """As the system can hand it over: without NUL, and what is no Unicode as bytes."""
    return text.replace("\0", "").encode(errors="backslashreplace").decode()


@st.composite
def flags(draw, known: dict[str, st.SearchStrategy[str]], most: int) -> list[str]:
    chosen = draw(st.lists(st.sampled_from(sorted(known)), max_size=most, unique=True))
    return [f"{name}={typed(draw(known[name]))}" for name in chosen]


@pytest.mark.parametrize("name", FILES)
@slowly(50)
@given(data=st.data())
def test_labelling_files_of_any_kind(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.rmtree("new", ignore_errors=True)
    for left in tmp_path.iterdir():
        left.unlink()
    Path(name).write_bytes(data.draw(damaged(data.draw(FILES[name]), 2)))
    given = data.draw(flags(FLAGS, 3)) + ["--evidence"] * data.draw(st.booleans())
    before = files_below(tmp_path)
    code, out, err = run(predict.main, [str(KEPT), name, *given])

    made = {path: content for path, content in files_below(tmp_path).items() if before.get(path) != content}
    if code == 2:
        assert is_refusal(err), err
        assert not made
        return
    assert code in (0, 1)
    assert all(map(is_one_line, err.splitlines())), err
    (output,) = [flag.partition("=")[2] for flag in given if flag.startswith("--output=")] or [None]
    assert list(made) == ([] if output is None else [str(Path(output))])
    if output is None and not any(flag.startswith("--format") for flag in given):
        documents = [json.loads(line) for line in out.splitlines()]
        assert documents
        assert (code == 1) == any("error" in document for document in documents)
        assert all(is_one_line(document.get("error", "none")) for document in documents)


# Models


@st.composite
def edited(draw, value: object) -> object:
    """A value of JSON with one of its parts replaced, taken out or put in."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 3)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = draw(st.sampled_from(keys))
        changed = dict(value) if isinstance(value, dict) else list(value)
        if draw(st.integers(0, 5)):
            changed[key] = draw(edited(value[key]))
        else:
            del changed[key]
        return changed
    if isinstance(value, dict):
        return {**value, draw(names): draw(values)}
    return draw(
        values | st.sampled_from([-1, 0, 1, 2, 3, 17, 64, 1000, 2**31, 2**63, 1e-300, 1e300, "", "text", [], {}])
    )


@pytest.mark.parametrize("name", ["classifier.json", "tokenizer.json", "model.safetensors", "SHA256SUMS"])
@slowly(100)
@given(data=st.data())
def test_models_that_somebody_edited(name, data, tmp_path):
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(KEPT, folder)
    path = folder / name
    content = path.read_bytes()
    if name == "model.safetensors":
        size = int.from_bytes(content[:8], "little")
        header = json.dumps(data.draw(edited(json.loads(content[8 : 8 + size])))).encode()
        content = len(header).to_bytes(8, "little") + header + content[8 + size :]
    elif name.endswith(".json"):
        content = json.dumps(data.draw(edited(json.loads(content)))).encode()
    path.write_bytes(data.draw(damaged(content, 1)) if not data.draw(st.integers(0, 5)) else content)
    if name != "SHA256SUMS":
        (folder / "SHA256SUMS").unlink()
    (tmp_path / "a.txt").write_text("word1 keyword2 " * 60)
    before = files_below(tmp_path)
    code, out, err = run(
        predict.main, [str(folder), str(tmp_path / "a.txt"), *["--evidence"] * data.draw(st.booleans())]
    )

    assert files_below(tmp_path) == before
    if code == 2:
        assert is_refusal(err), err
        assert str(folder) in err
    else:
        assert code == 0
        assert set(json.loads(out)) >= {"id", "labels", "probabilities"}


# Command lines

VALUES = (
    *(
        "0",
        "1",
        "-1",
        "2",
        "16",
        "64",
        "1.5",
        "1e9",
        "1e400",
        "nan",
        "-inf",
        "null",
        "true",
        "no",
        "[]",
        "[1, 2]",
        "{}",
    ),
    *(
        "{a: 1}",
        "2020-99-99",
        "12:30",
        "0x10",
        "1_000",
        "!!python/object:os.system x",
        "&a *a",
        "*a",
        "%",
        "- ",
        "? a",
        "#",
    ),
    *(
        "dense",
        "sparse",
        "missing.csv",
        "rows.jsonl",
        ".",
        "~",
        "imdb",
        "listops",
        "pathfinder32",
        "1/16",
        "1/0",
        "@x",
        "--",
    ),
    *("9" * 30, "9" * 400, "[" * 300, "a: b: c", "\t", "'", '"', "\x1b[2J", "日本", "e\u0301"),
)
typed_values = (st.sampled_from(VALUES) | names).map(typed)


@st.composite
def command_lines(draw, known: Sequence[str], most: int = 5) -> list[str]:
    arguments: list[str] = []
    for _ in range(draw(st.integers(0, most))):
        flag = draw(
            st.sampled_from(known) | st.sampled_from(["--no-such-flag", "--", "-x", "--seq_len"]) | typed_values
        )
        form = draw(st.sampled_from(["alone", "=", "two", "three"]))
        arguments.append(f"{flag}={draw(typed_values)}" if form == "=" else flag)
        arguments += [draw(typed_values) for _ in range({"two": 1, "three": 2}.get(form, 0))]
    return arguments


def flags_of(parser) -> list[str]:
    return sorted(flag for flag in parser._option_string_actions if flag not in ("--output", "--resume"))


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS * 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sweep, "_run", lambda *unused: 0)
        patch.setattr(serve, "_serve", lambda *unused: None)
        yield folder


def ends_well(command: Callable[[Sequence[str]], object], arguments: Sequence[str], room: Path):
    before = files_below(room)
    code, _, err = run(command, arguments)
    assert files_below(room) == before
    assert code in (0, 1, 2)
    assert code != 2 or is_refusal(err), err


def parsed(arguments: Sequence[str]) -> int:
    parse(arguments)
    return 0


CLASSIFY = flags_of(make_parser())
SWEEP = flags_of(sweep._make_parser())


@slowly(300)
@given(arguments=command_lines(CLASSIFY))
def test_command_lines_of_classify(arguments, room):
    ends_well(parsed, arguments, room)


@slowly(150)
@given(arguments=command_lines(SWEEP))
def test_command_lines_of_sweep(arguments, room):
    ends_well(sweep.main, arguments, room)


@slowly(100)
@given(arguments=command_lines(flags_of(predict._make_parser())), files=st.lists(typed_values, max_size=2))
def test_command_lines_of_predict(arguments, files, room):
    ends_well(predict.main, [str(KEPT), *files, *arguments, "rows.jsonl"], room)


@slowly(100)
@given(arguments=command_lines(flags_of(serve._make_parser())))
def test_command_lines_of_serve(arguments, room):
    ends_well(serve.main, [str(KEPT), *arguments], room)


PREPARE = (
    *("--text-field", "--label-field", "--id-field", "--validation", "--test", "--split-seed", "--validation-share"),
    *("--test-share", "--task", "--label-separator", "--unseen-labels", "--label-fields", "--file-field", "--encoding"),
    *("--delimiter", "--no-quotes", "--columns", "--bad-rows", "--join-rows", "--no-stratify", "--folds", "--fold"),
)


@slowly(150)
@given(arguments=command_lines(PREPARE))
def test_command_lines_of_prepare(arguments, room):
    ends_well(prepare, ["rows.jsonl", *arguments], room)


@slowly(100)
@given(
    file=st.text("abc: -[]{}'\"#&*!|>%@\n\t0.1nul", max_size=40)
    | st.dictionaries(st.sampled_from([flag[2:] for flag in CLASSIFY]), values, max_size=4).map(json.dumps)
)
def test_yaml_files_of_settings(file, room):
    path = room / "settings.yaml"
    path.write_bytes(file.encode(errors="surrogatepass"))
    ends_well(parsed, [f"--config={path}"], room)
