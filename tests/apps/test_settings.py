"""Flags, YAML files, and what is said when they are wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

from flash_sparse import layout, nn, patterns
from flash_sparse_apps.command_line import load_settings, parse
from flash_sparse_apps.models.layouts import PATTERNS
from flash_sparse_apps.settings import BLOCK_SIZES, IMAGE_PATTERNS, Settings

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def one_error_line(capsys, arguments) -> str:
    """Parse wrong arguments; the one line on stderr."""
    with pytest.raises(SystemExit) as stopped:
        parse([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return captured.err


def test_no_flags_are_the_defaults():
    assert parse([]) == (Settings(), None)


def shown_by(flag: str, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse([flag])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_shows_the_flags_of_every_day(capsys):
    shown = shown_by("--help", capsys)
    flags = set(re.findall(r"^  --([\w-]+)", shown, re.MULTILINE))
    daily = {field.name.replace("_", "-") for field in dataclasses.fields(Settings) if field.metadata["daily"]}
    assert flags == daily | {"help-all", "config", "print-config", "resume"}
    assert len(shown.split("options:")[0].split()) < 40  # a usage line, not a list of all flags
    assert "--help-all" in shown


def test_help_all_shows_every_flag_and_default(capsys):
    shown = " ".join(shown_by("--help-all", capsys).split())
    for field in dataclasses.fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in shown
        assert field.metadata["help"].split()[0] in shown
    assert shown.count("default: ") >= len(dataclasses.fields(Settings))


@pytest.mark.parametrize("command", ["classify", "predict", "sweep", "curriculum", "benchmark"])
def test_help_waits_for_no_library(command):
    code = (
        f"import sys\nfrom flash_sparse_apps import {command}\n"
        f"try:\n    {command}.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(sorted({'torch', 'numpy', 'lightning', 'transformers'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_what_is_known_of_the_attention_package_without_importing_it():
    assert layout.BLOCK_SIZES == BLOCK_SIZES
    assert all(hasattr(patterns, name) for name in PATTERNS)
    assert set(IMAGE_PATTERNS) < set(PATTERNS)
    for name in get_args(get_type_hints(Settings)["rotary"]):
        rotary, grid = None if name == "none" else name, (2, 2) if name == "2d" else None
        nn.Encoder(8, 8, 1, 1, pooling="mean", num_outputs=2, rotary=rotary, grid=grid)


def test_yaml_round_trip(tmp_path):
    settings = Settings(
        dataset="a b.jsonl",
        label_separator=";",
        sparse=True,
        max_time=1.5,
        learning_rate=1e-05,
        mlp_width=7,
        rotary="none",
    )
    path = tmp_path / "config.yaml"
    path.write_text(settings.to_yaml())
    assert load_settings(path) == settings


def test_printed_config_is_one_that_can_be_read(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--seq-len", "77", "--sparse", "--block-size", "16", "--global-blocks", "2", "--print-config"])
    assert stopped.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    settings, _ = parse(["--config", str(path)])
    assert settings == Settings(seq_len=77, sparse=True, block_size=16, global_blocks=2)


def test_a_density_may_be_a_fraction(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("sparse: true\npattern: random\ndensity: 1/16\n")
    typed, _ = parse(["--sparse", "--pattern", "random", "--density", "1/16"])
    assert parse(["--config", str(path)])[0] == typed == Settings(sparse=True, pattern="random", density=0.0625)
    assert "density: 0.0625\n" in typed.to_yaml()


@pytest.mark.parametrize("order", ["before", "after"])
def test_flags_override_the_file_wherever_they_stand(tmp_path, order):
    path = tmp_path / "a.yaml"
    path.write_text("seq-len: 128\nsparse: true\nlearning-rate: 1e-4\n")
    flags, config = ["--seq-len", "256", "--dense"], ["--config", str(path)]
    settings, _ = parse(flags + config if order == "before" else config + flags)
    assert (settings.seq_len, settings.sparse, settings.learning_rate) == (256, False, 1e-4)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seq-len", "0"], "--seq-len is 0; expected at least 1"),
        (["--seq-len", "many"], "--seq-len: expected int, got many"),
        (["--sparse", "--block-size", "48"], "--block-size is 48; expected one of 16, 32, 64, 128"),
        (["--sparse", "--block-size", "64", "--seq-len", "32"], "--block-size is 64; expected at most --seq-len 32"),
        (["--sparse", "--seq-len", "128", "--global-blocks", "3"], "--global-blocks is 3; expected at most 2"),
        (["--width", "128", "--heads", "3"], "--heads is 3; expected a divisor of --width 128"),
        (["--width", "1024", "--heads", "2"], "512 features a head at --width 1024; expected at most 256"),
        (["--width", "12", "--heads", "4"], "3 features a head; expected a multiple of 2"),
        (["--tokens-per-batch", "0"], "--tokens-per-batch is 0; expected at least 1"),
        (["--batch-size", "10", "--devices", "4"], "--batch-size is 10; expected a multiple of the 4 devices"),
        (["--seed", str(2**32)], "--seed is 4294967296; expected at most 4294967295"),
        (["--seq-len", "9" * 20], "--seq-len is 99999999999999999999; expected at most 16777216"),
        (["--vocab-size", "9" * 20], "--vocab-size is 99999999999999999999; expected at most 1048576"),
        (["--window", "9" * 20], "--window is 99999999999999999999; expected at most 2147483647"),
        (["--max-time", "1e300"], "--max-time is 1e+300; expected at most 1e+12"),
        (["--dropout", "1"], "--dropout is 1.0; expected 0 or more and less than 1"),
        (["--density", "0"], "--density is 0.0; expected a share such as 1/16 or 0.0625, above 0 and at most 1"),
        (["--density", "1/0"], "--density is 1/0; expected a share"),
        (["--density", "3/2"], "--density is 3/2; expected a share"),
        (["--learning-rate", "0"], "--learning-rate is 0.0; expected a number above 0"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--max-time", "-1"], "--max-time is -1.0; expected a number above 0"),
        (["--pooling", "median"], "--pooling: expected ['mean', 'max', 'cls', 'label'], got median"),
        (["--nonsense", "1"], "--nonsense"),
        (["--seq-le", "128"], "--seq-le"),
        (["stray"], "stray"),
        (["--pattern", "bigbird"], "--pattern is bigbird; it needs --sparse"),
        (["--config", "/not/there.yaml"], "/not/there.yaml: No such file or directory"),
        (["--config"], ""),
        (["--resume", "/not/there"], "--resume is /not/there; expected a run folder"),
        (["--folds", "5"], "--folds is 5; expected --fold too, or sweep.py, which runs all folds"),
        (["--folds", "1", "--fold", "1"], "--folds is 1; expected at least 2"),
        (["--folds", "5", "--fold", "6"], "--fold is 6; expected at most --folds 5"),
        (["--fold", "2"], "--fold is 2; it needs --folds"),
        (["--folds", "5", "--fold", "1", "--test", "a.csv"], "--folds is 5; it cannot be used with --test"),
        (["--folds", "5", "--fold", "1", "--init-from", "run"], "--folds is 5; it cannot be used with --init-from"),
        (["--folds", "5", "--fold", "1", "--test-share", "0.3"], "--test-share is 0.3; it cannot be used with --folds"),
    ],
)
def test_wrong_flags_are_one_line(capsys, flags, said):
    assert said in one_error_line(capsys, flags)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"seq-lem: 12\n", "seq-lem"),
        (b"seq-len: abc\n", "--seq-len: expected int, got abc"),
        (b"seq-len: [\n", "line 2"),
        (b"seq-len: 0\n", "--seq-len is 0"),
        (b"seed: null\n", "--seed is null; expected a value"),
        (b"epochs: 3\ndataset:\n", "--dataset is null; expected a value"),
        (b"- a\n- b\n", "Unexpected config"),
        (b"\xff\xfe\x00", "utf-8"),
        (b"sparse: 3\n", "3"),
    ],
)
def test_wrong_files_are_one_line(tmp_path, capsys, content, said):
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    line = one_error_line(capsys, ["--config", path])
    assert said in line
    assert str(path) in line or " is " in said  # what flags could still have mended names no file


def test_flags_of_sparse_layouts_may_stand_beside_dense(tmp_path):
    assert not parse(["--dense", "--window", "64"])[0].sparse
    path = tmp_path / "config.yaml"
    path.write_text("sparse: true\nwindow: 64\n")
    assert parse(["--config", str(path), "--block-size", "32"])[0].sparse
    path.write_text("window: 64\n")
    assert not parse(["--config", str(path)])[0].sparse


def test_resume_takes_the_settings_of_the_run_and_only_a_new_time_and_places(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(Settings(seq_len=99, sparse=True, block_size=16, max_time=1.0).to_yaml())
    settings, run = parse(["--resume", str(tmp_path)])
    assert (run, settings.seq_len, settings.max_time) == (tmp_path, 99, 1.0)
    settings, _ = parse(["--resume", str(tmp_path), "--max-time", "5"])
    assert (settings.seq_len, settings.max_time) == (99, 5.0)
    settings, _ = parse(["--resume", str(tmp_path), "--dataset", "/moved/here.csv"])
    assert (settings.seq_len, settings.max_time, settings.dataset) == (99, 1.0, "/moved/here.csv")
    assert "--config cannot be given with --resume" in one_error_line(
        capsys, ["--resume", tmp_path, "--config", tmp_path / "config.yaml"]
    )
    assert "--epochs cannot be given with --resume" in one_error_line(capsys, ["--resume", tmp_path, "--epochs", "3"])


def test_a_damaged_config_of_a_run_is_named(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("seq-lem: 12\n")
    assert f"{tmp_path / 'config.yaml'}: " in one_error_line(capsys, ["--resume", tmp_path])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_can_be_read_and_every_key_is_commented(path):
    settings = load_settings(path)
    assert isinstance(settings, Settings)
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[a-z]", line):
            assert "#" in line or lines[number - 1].startswith("#"), line
    assert set(yaml.safe_load(path.read_text())) <= {f.name.replace("_", "-") for f in dataclasses.fields(Settings)}


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("--seq_len", "--seq-len"),
        ("--seqlen=512", "--seq-len"),
        ("--max-tim", "--max-time"),
        ("--no-compar", "--no-compare"),
        ("--no-sparse", None),  # which is --dense
        ("--lr", None),
        ("--zzzz", None),
    ],
)
def test_an_unknown_flag_is_named_with_the_nearest_one(capsys, typed, near):
    said = one_error_line(capsys, [typed, "512"])
    assert f"unrecognized arguments: {typed}" in said
    assert said.rstrip().endswith(f"; the nearest is {near}" if near else " 512")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [("--embeddings", "['cooccurrence', 'random']"), ("--mlp-width", "int"), ("--max-time", "float")],
)
def test_what_may_be_null_is_said_in_few_words(capsys, flag, expected):
    assert one_error_line(capsys, [flag, "foo"]) == f"error: {flag}: expected {expected} or null, got foo\n"


@pytest.mark.parametrize("typed", ["#", "~", "Null", "NULL", "12", "true", "a: b", "[a", "- a", "'a'"])
@pytest.mark.parametrize(
    "flag", ["--label-separator", "--label-field", "--validation", "--test", "--output", "--text-field"]
)
def test_what_is_typed_is_taken_as_typed(tmp_path, flag, typed):
    name = flag.removeprefix("--").replace("-", "_")
    for arguments in ([flag, typed], [f"{flag}={typed}"]):
        settings, _ = parse(arguments)
        assert getattr(settings, name) == typed
    (tmp_path / "a.yaml").write_text(settings.to_yaml())
    assert parse(["--config", str(tmp_path / "a.yaml")])[0] == settings


def test_null_is_none_and_overrides_a_file(tmp_path):
    (tmp_path / "a.yaml").write_text("label-field: topic\ncolumns: [a, b]\n")
    settings, _ = parse(["--config", str(tmp_path / "a.yaml")])
    assert (settings.label_field, settings.columns) == ("topic", ["a", "b"])
    settings, _ = parse(["--config", str(tmp_path / "a.yaml"), "--label-field", "null", "--columns", "null"])
    assert (settings.label_field, settings.columns) == (None, None)


def test_flags_of_several_names():
    settings, _ = parse(["--text-field", "title", "#body", "--columns", "~", "--label-fields=a", "b", "--seed", "3"])
    assert (settings.text_field, settings.columns, settings.label_fields) == (["title", "#body"], ["~"], ["a", "b"])
    assert settings.seed == 3


def test_a_relative_dataset_is_found_from_another_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "run").mkdir(parents=True)
    (tmp_path / "there" / "my.jsonl").write_text("")
    (tmp_path / "there" / "run" / "config.yaml").write_text("dataset: my.jsonl\n")
    (tmp_path / "there" / "run" / "data.json").write_text(json.dumps({"folder": str(tmp_path / "there")}))
    monkeypatch.chdir(tmp_path / "here")
    settings, _ = parse(["--resume", str(tmp_path / "there" / "run")])
    assert settings.dataset == str(tmp_path / "there" / "my.jsonl")
    (tmp_path / "there" / "my.jsonl").unlink()
    line = one_error_line(capsys, ["--resume", str(tmp_path / "there" / "run")])
    assert line.startswith("error: --dataset is my.jsonl, which is not here nor in ")


def test_a_run_from_before_there_was_a_flag_goes_on_as_it_began(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("dataset: my.csv\nepochs: 3\n")
    (tmp_path / "my.csv").write_text("")
    given = ["--resume", str(tmp_path), "--dataset", str(tmp_path / "my.csv")]
    assert not parse(given)[0].stratify
    assert not load_settings(tmp_path / "config.yaml").stratify
    (tmp_path / "config.yaml").write_text("dataset: my.csv\nstratify: true\n")
    assert parse(given)[0].stratify
    (tmp_path / "config.yaml").write_text("dataset: listops\n")  # which draws no splits of its own
    assert load_settings(tmp_path / "config.yaml").stratify
    (tmp_path / "config.yaml").write_text("dataset: my.csv\n")  # for a new run
    assert parse(["--config", str(tmp_path / "config.yaml")])[0].stratify
