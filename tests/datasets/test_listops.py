"""ListOps: the published recipe and its statistics, the evaluator, generated and official files."""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from flash_sparse_datasets import DataError, Document, load
from flash_sparse_datasets.listops import (
    FILES,
    VOCABULARY,
    evaluate,
    generate,
    majority_class,
    oracle_root_operator,
    with_parentheses,
)

DOOR = Path(__file__).parents[2] / "datasets" / "prepare.py"
EASY = {"min_length": 5, "max_length": 40, "max_depth": 4, "max_arguments": 4}
SMALL = {"train_size": 30, "validation_size": 6, "test_size": 5, **EASY}
SHARES = (0.1703, 0.0904, 0.0761, 0.0837, 0.0902, 0.0865, 0.0750, 0.0724, 0.0877, 0.1678)  # of the ten classes
ORACLE = 0.3637  # accuracy by the root operator
INNERMOST = re.compile(r"\[(MIN|MAX|MED|SM)((?: \d)+) \]")


def slow_value(expression):
    """The value, by replacing one innermost list after the other by its digit."""
    while match := INNERMOST.search(expression):
        digits = [int(digit) for digit in match[2].split()]
        value = {
            "MIN": min(digits),
            "MAX": max(digits),
            "MED": int(np.median(digits)),
            "SM": sum(digits) % 10,
        }[match[1]]
        expression = expression[: match.start()] + str(value) + expression[match.end() :]
    return int(expression)


def slow_tree(random_numbers, max_depth, max_arguments, depth=1):
    """One try of the published recipe, as it is described: arguments first, then the operator."""
    if depth < max_depth and random_numbers.random() < 0.25:
        arguments = [
            slow_tree(random_numbers, max_depth, max_arguments, depth + 1)
            for _ in range(random_numbers.randint(2, max_arguments))
        ]
        return [random_numbers.choice(VOCABULARY[:4]), *chain.from_iterable(arguments), "]"]
    return [str(random_numbers.randint(0, 9))]


@pytest.fixture(scope="module")
def published():
    return generate(3000)


# The recipe


def test_published_statistics(published):
    """Each figure within 3 standard errors of what the recipe gives when it is written down naively.

    Lengths of 140,000 such expressions, classes of 63,000. (6,000 of another implementation had mean 1046, quantiles
    538, 712, 978, 1317, 1804, and 37.0% for the oracle: all but the median within 2 standard errors of these.)
    """
    expressions, targets = published
    n = len(expressions)
    lengths = np.array([len(expression.split()) for expression in expressions])
    assert lengths.min() > 500
    assert lengths.max() < 2000
    assert abs(lengths.mean() - 1035.8) < 3 * 394 / np.sqrt(n)
    for share, quantile in ((0.05, 538), (0.25, 703), (0.5, 954), (0.75, 1312), (0.95, 1800)):
        assert abs((lengths <= quantile).mean() - share) < 3 * np.sqrt(share * (1 - share) / n) + 0.002, quantile

    shares = np.bincount(targets, minlength=10) / n
    for digit, share in enumerate(SHARES):
        assert abs(shares[digit] - share) < 3 * np.sqrt(share * (1 - share) / n), digit


def test_shape_of_the_expressions(published):
    operators, arguments_of, depths = Counter(), Counter(), Counter()
    for expression in published[0][:500]:
        tokens = expression.split()
        assert expression == " ".join(tokens)
        assert set(tokens) <= set(VOCABULARY)
        arguments, deepest = [], 0
        for token in tokens:
            if token[0] == "[":
                operators[token] += 1
                arguments.append(0)
                deepest = max(deepest, len(arguments))
                continue
            if token == "]":
                arguments_of[arguments.pop()] += 1
            if arguments:
                arguments[-1] += 1
        assert not arguments
        depths[deepest] += 1
    assert depths == {9: 500}
    assert sorted(arguments_of) == list(range(2, 11))
    total = operators.total()
    for operator in VOCABULARY[:4]:  # the operator plays no part in which lengths are kept
        assert abs(operators[operator] / total - 0.25) < 3 * np.sqrt(0.25 * 0.75 / total)


def test_the_same_distribution_as_one_tree_after_the_other():
    """Lengths, root operators and values of an easier recipe, against the recipe written down naively."""
    numbers, slow = random.Random(1), []
    while len(slow) < 2000:
        tokens = slow_tree(numbers, max_depth=6, max_arguments=5)
        if 20 < len(tokens) < 120:
            slow.append(" ".join(tokens))
    fast, targets = generate(2000, min_length=20, max_length=120, max_depth=6, max_arguments=5)
    features = {
        "length": (lambda e: len(e.split()), None),
        "value": (slow_value, targets),
        "operators": (lambda e: e.count("["), None),
        "digits": (lambda e: sum(map(e.count, "0123456789")), None),
        "first operator": (lambda e: VOCABULARY.index(e.split()[0]), None),
        "first digit": (lambda e: re.search(r"\d", e).start(), None),
    }
    for name, (feature, known) in features.items():
        one, other = np.sort([feature(e) for e in slow]), np.sort([feature(e) for e in fast])
        assert known is None or sorted(known) == other.tolist()
        everywhere = np.union1d(one, other)
        distance = np.abs(
            np.searchsorted(one, everywhere, "right") / 2000 - np.searchsorted(other, everywhere, "right") / 2000
        ).max()
        assert distance < 1.95 * np.sqrt(2 / 2000), name  # Kolmogorov-Smirnov at one in a thousand


def test_the_root_operator_and_the_majority(published):
    documents = [Document("", e, (str(t),)) for e, t in zip(*published, strict=True)]
    train, test = documents[:1500], documents[1500:]
    assert abs(oracle_root_operator(train, test) - ORACLE) < 3 * np.sqrt(ORACLE * (1 - ORACLE) / 1500)
    assert abs(majority_class(train, test) - 0.17) < 3 * np.sqrt(0.17 * 0.83 / 1500)


def test_baselines_on_a_known_case(tmp_path):
    write(tmp_path, "basic_train.tsv", ["[MAX 1 2 ]", "[MAX 2 1 ]", "[MIN 3 4 ]", "[MIN 1 2 ]", "[MIN 1 3 ]"])
    write(tmp_path, "basic_val.tsv", ["[MAX 1 1 ]"])
    write(tmp_path, "basic_test.tsv", ["[MAX 2 2 ]", "[MIN 1 5 ]", "[MIN 5 5 ]", "[SM 5 6 ]"])
    # MAX is mostly 2, MIN mostly 1; SM is new, and the smaller of the equally frequent 1 and 2 is the majority.
    assert load("listops", tmp_path).baselines() == {"majority class": 0.5, "root operator": 0.75}


def test_the_same_from_any_number_of_workers():
    one = generate(1500, seed=3, **EASY)
    assert generate(1500, seed=3, workers=2, **EASY) == one
    assert generate(400, seed=3, **EASY) == (one[0][:400], one[1][:400])
    assert len(set(one[0])) == 1500
    assert generate(1500, seed=4, **EASY) != one


def test_the_same_on_every_machine():
    """Written down once: a change here changes everybody's data."""
    expressions, targets = generate(3, seed=0, min_length=5, max_length=12, max_depth=3)
    assert expressions == ["[MAX 1 8 6 2 ]", "[MED 8 4 4 [MIN 9 0 0 ] 0 ]", "[MAX 6 4 0 3 [MAX 9 3 ] 5 ]"]
    assert targets == [8, 4, 9]


def test_values_are_those_of_the_evaluators(published):
    for expression, target in list(zip(*published, strict=True))[:100]:
        assert evaluate(expression) == target
        assert evaluate(with_parentheses(expression)) == target
        assert slow_value(expression) == target


def test_all_of_a_small_language():
    expressions, targets = generate(4 * 100, min_length=3, max_length=5, max_depth=2)
    assert sorted(expressions) == sorted(f"{o} {a} {b} ]" for o in VOCABULARY[:4] for a in range(10) for b in range(10))
    assert [slow_value(expression) for expression in expressions] == targets
    with pytest.raises(ValueError, match="400 different expressions found, expected 401"):
        generate(401, min_length=3, max_length=5, max_depth=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1}, "count is -1, expected an integer of at least 0"),
        ({"seed": -1}, "seed is -1, expected an integer of at least 0"),
        ({"workers": 0}, "workers is 0, expected an integer of at least 1"),
        ({"max_length": "long"}, "max_length is 'long', expected an integer of at least 5"),
        ({"max_arguments": 1}, "max_arguments is 1, expected an integer of at least 2"),
        ({"max_depth": 1}, "max_depth is 1, expected an integer of at least 2"),
        ({"min_length": 500, "max_length": 501}, "min_length and max_length are 500 and 501"),
        ({"max_depth": 3}, "min_length is 500, expected less than 122, the longest expression with max_depth 3"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        generate(**{"count": 1, **arguments})
    assert "\n" not in str(caught.value)


# The evaluator


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7", 7),
        ("[MAX 4 3 1 ]", 4),
        ("[MIN 4 3 [SM 9 9 3 ] ]", 1),
        ("[MED 1 5 8 9 2 ]", 5),
        ("[MED 1 2 ]", 1),
        ("[MED 0 9 8 3 ]", 5),
        ("[SM 5 5 ]", 0),
        ("[MAX 4 ]", 4),
        ("  [MAX\t4\n3 ]  ", 4),
        ("( ( ( ( [MAX 4 ) 3 ) 1 ) ] )", 4),
        ("( ( ( ( [MAX 4 ) ( ( ( [MIN 2 ) 3 ) ] ) ) 1 ) ] )", 4),
        ("[MAX " * 5000 + "3" + " ]" * 5000, 3),
    ],
)
def test_values(expression, value):
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "'' has no token"),
        ("( )", "has no token"),
        ("[MAX 4 x ]", "'x' at character 8, expected one of [MIN [MAX [MED [SM ] 0 1"),
        ("( ( [MAX 10 ) ] )", "'10' at character 10, expected one of"),
        ("[FIRST 1 2 ]", "'[FIRST' at character 1, expected one of"),
        ("[MAX 4 3]", "'3]' at character 8, expected one of"),
        ("[MAX ٣ ]", "'٣' at character 6, expected one of"),
        ("[MAX 4 ] ]", "']' at character 10, which closes nothing"),
        ("]", "']' at character 1, which closes nothing"),
        ("[MAX ]", "']' at character 6, expected an argument before it"),
        ("[MAX [MIN ] 3 ]", "']' at character 11, expected an argument"),
        ("[MAX 4 [MIN 3", "ends after 4 tokens in 2 open lists, expected ']'"),
        ("4 3", "'3' at character 3, expected nothing after a whole expression"),
        ("( ( [MAX 4 ) ] ) 5 5", "'5' at character 18, expected nothing after"),
        ("3 [MAX 4 ]", "'[MAX' at character 3, expected nothing after"),
        ("( ( [MAX 4 ) ]", "2 '(' and 1 ')', expected as many of each"),
    ],
)
def test_what_is_no_expression(expression, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate(expression)


def test_official_notation():
    assert with_parentheses("[MAX 4 3 1 ]") == "( ( ( ( [MAX 4 ) 3 ) 1 ) ] )"
    assert with_parentheses("[SM [MIN 2 3 ] 1 ]") == "( ( ( [SM ( ( ( [MIN 2 ) 3 ) ] ) ) 1 ) ] )"
    assert with_parentheses("5") == "5"


# Files


def write(folder, name, expressions, targets=None, header="Source\tTarget", end="\r\n"):
    folder.mkdir(parents=True, exist_ok=True)
    targets = [slow_value(expression) for expression in expressions] if targets is None else targets
    rows = [header, *(f"{with_parentheses(e)}\t{t}" for e, t in zip(expressions, targets, strict=True))]
    (folder / name).write_bytes("".join(row + end for row in rows).encode())


def write_release(folder, **options):
    expressions, _ = generate(12, seed=9, **EASY)
    for name, part in (("train", slice(8)), ("val", slice(8, 10)), ("test", slice(10, 12))):
        write(folder, f"basic_{name}.tsv", expressions[part], **options)
    return expressions


def texts(dataset):
    return {s: [(d.text, d.labels) for d in getattr(dataset, s)] for s in ("train", "validation", "test")}


@pytest.mark.parametrize(
    ("place", "root"),
    [
        ("", ""),
        ("listops", ""),
        ("listops-1000", ""),
        ("lra_release/listops-1000", "lra_release"),
        ("lra_release/lra_release/listops-1000", ""),
        ("lra_release/lra_release/listops-1000", "lra_release"),
        ("lra_release/lra_release/listops-1000", "lra_release/lra_release"),
    ],
)
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_official_files(tmp_path, place, root, end):
    expressions = write_release(tmp_path / place, end=end)
    dataset = load("listops", tmp_path / root)
    assert texts(dataset)["train"] == [(e, (str(slow_value(e)),)) for e in expressions[:8]]
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [8, 2, 2]
    assert (dataset.task, dataset.labels, dataset.vocabulary) == ("single-label", tuple("0123456789"), VOCABULARY)
    assert dataset.notes[0] == "train: 8 expressions, the release has 96,000"
    assert next(iter(dataset.validation)).id == "basic_val.tsv:2"
    assert texts(dataset) == texts(dataset)


def test_the_inner_one_of_the_release_s_two_folders(tmp_path):
    expressions = write_release(tmp_path / "lra_release" / "lra_release" / "listops-1000")
    for name in ("train", "val", "test"):
        write(tmp_path / "lra_release" / "listops-1000", f"basic_{name}.tsv", ["[MAX 1 2 ]"])
    for root in ("", "lra_release"):
        assert next(iter(load("listops", tmp_path / root).train)).text == expressions[0]


def test_expressions_that_are_also_in_training(tmp_path):
    write_release(tmp_path)
    expressions = [d.text for d in load("listops", tmp_path).train]
    write(tmp_path, "basic_test.tsv", [*expressions[:3], "[MAX 1 2 3 4 5 6 7 8 9 ]"])
    assert "test: 3 of its expressions are also in training" in load("listops", tmp_path).notes


def put(folder, name, content):
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            partial(write, name="basic_val.tsv", expressions=["[MAX 1 2 ]", "[MIN 1 2 ]"], targets=[2, 2]),
            "basic_val.tsv row 3: the target is '2', expected 1",
        ),
        (
            partial(write, name="basic_test.tsv", expressions=["[MAX 1 2 ]"], targets=["two"]),
            "basic_test.tsv row 2: the target is 'two', expected 2",
        ),
        (
            partial(write, name="basic_test.tsv", expressions=["[MAX 1 2 ]"], header="Source\tLabel"),
            "basic_test.tsv: no field 'Target' in the header, expected Source and Target",
        ),
        (
            partial(put, name="basic_train.tsv", content=b"Source\tTarget\r\n( [MAX 1 ) 2\t2\r\n"),
            "basic_train.tsv row 2: the expression ends after 3 tokens in 1 open lists, expected ']'",
        ),
        (
            partial(put, name="basic_train.tsv", content=b"Source\tTarget\r\n[MAX 1 2 ]\r\n"),
            "basic_train.tsv row 2: the row has 1 cells, expected 2 as in the header",
        ),
        (partial(put, name="basic_train.tsv", content=b"Source\tTarget\r\n"), "basic_train.tsv: a header and no rows"),
        (partial(put, name="basic_train.tsv", content=b""), "basic_train.tsv: the file is empty"),
        (
            partial(put, name="basic_train.tsv", content=b"Source\tTarget\r\n\xff\t1\r\n"),
            "basic_train.tsv line 2: 0xff at its byte 1 is not UTF-8 (as cp1252 it reads",
        ),
        (lambda folder: (folder / "basic_val.tsv").unlink(), "basic_val.tsv: missing, expected all of basic_train.tsv"),
    ],
)
def test_bad_files(tmp_path, spoil, message):
    write_release(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError) as caught:
        load("listops", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}{os.sep}{message}")
    assert "\n" not in str(caught.value)


def test_no_files(tmp_path):
    with pytest.raises(DataError, match=r"no basic_train.tsv in it, expected the folder .*OpenNLPLab/lra\), or leave"):
        load("listops", tmp_path)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load("listops", tmp_path / "nowhere")
    write_release(tmp_path)
    with pytest.raises(ValueError, match="whose files are read as they are"):
        load("listops", tmp_path, train_size=5)


def test_a_file_that_changes(tmp_path):
    write_release(tmp_path)
    dataset = load("listops", tmp_path)
    write(tmp_path, "basic_train.tsv", ["[MAX 1 2 ]"])
    with pytest.raises(DataError, match=r"basic_train.tsv: changed since it was first read"):
        list(dataset.train)


# The generated dataset


def test_generated_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = load("listops", **SMALL)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [30, 6, 5]
    everything = [row for rows in texts(dataset).values() for row in rows]
    assert len({text for text, _ in everything}) == 41
    for text, (label,) in everything:
        assert slow_value(text) == int(label)
        assert 5 < len(text.split()) < 40
    assert dataset.notes == ("no expression of any part has 1 of the 10 labels: 7",)
    assert dataset.vocabulary == VOCABULARY

    folder = tmp_path / "flash-sparse" / "listops"
    (kept,) = folder.iterdir()  # nothing half written is left
    times = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    again = load("listops", **SMALL)
    assert {file.name: file.stat().st_mtime_ns for file in kept.iterdir()} == times
    assert (again.fingerprint, texts(again)) == (dataset.fingerprint, texts(dataset))

    elsewhere = load("listops", cache_dir=tmp_path / "other", **SMALL)
    assert elsewhere.fingerprint == dataset.fingerprint
    assert len(list((tmp_path / "other" / "listops").iterdir())) == 1

    larger = load("listops", **{**SMALL, "train_size": 60})
    assert texts(larger)["test"] == texts(dataset)["test"]
    assert texts(larger)["validation"] == texts(dataset)["validation"]
    assert texts(larger)["train"][:30] == texts(dataset)["train"]
    assert larger.fingerprint != dataset.fingerprint
    assert texts(load("listops", **SMALL, seed=1)) != texts(dataset)


def test_two_that_generate_at_the_same_time(tmp_path, monkeypatch):
    """Whoever comes second takes the first one's files."""
    first = load("listops", cache_dir=tmp_path, **SMALL)
    (kept,) = (tmp_path / "listops").iterdir()
    names = {file.name: file.stat().st_ino for file in kept.iterdir()}
    kept.rename(tmp_path / "aside")

    def write_and_be_late(folder, *arguments, **options):
        for file in FILES.values():
            (folder / file).write_bytes(b"")
        (tmp_path / "aside").rename(kept)

    monkeypatch.setattr("flash_sparse_datasets.listops.write_files", write_and_be_late)
    assert load("listops", cache_dir=tmp_path, **SMALL).fingerprint == first.fingerprint
    assert {file.name: file.stat().st_ino for file in kept.iterdir()} == names
    assert list((tmp_path / "listops").iterdir()) == [kept]


def test_generating_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="allows for too few"):
        load("listops", cache_dir=tmp_path, train_size=500, min_length=3, max_length=5, max_depth=2)
    assert list((tmp_path / "listops").iterdir()) == []
    with pytest.raises(ValueError, match="train_size is 0, expected an integer of at least 1"):
        load("listops", cache_dir=tmp_path, train_size=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        load("listops", cache_dir=tmp_path / "file", **SMALL)


def run(*arguments):
    return subprocess.run(
        [sys.executable, DOOR, "listops", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_script_writes_official_files(tmp_path):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    done = run("--output", tmp_path / "made", *options)
    assert done.returncode == 0, done.stderr
    assert "30 / 6 / 5 for training, validation and test" in done.stdout
    assert "test accuracy by the root operator: " in done.stdout
    lines = (tmp_path / "made" / "basic_train.tsv").read_bytes().split(b"\r\n")
    assert lines[0] == b"Source\tTarget"
    assert len(lines) == 32
    assert re.fullmatch(rb"(\( ){3,5}\[(MIN|MAX|MED|SM) .* \) \] \)\t\d", lines[1])
    # the same expressions as in the cache, by the same options from Python
    generated = load("listops", cache_dir=tmp_path / "cache", **SMALL)
    assert texts(load("listops", tmp_path / "made")) == texts(generated)

    done = run("--output", tmp_path / "made")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there are ListOps files already" in done.stderr
    done = run("--root", tmp_path / "nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
