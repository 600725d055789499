"""The command line and its YAML file, read into `Settings`: the parser made from the fields, and what may be typed."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_type_hints

import yaml
from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from flash_sparse_apps.console import spoken
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.settings import MAY_CHANGE, Settings, dashed
from flash_sparse_datasets import NAMED

LISTS = ("--text-field", "--label-fields", "--columns")  # flags that take any number of names
LONGEST = 1000  # characters of an error, which quotes what was typed
VALUED = ("skip_black", "grow_from", "folds")  # flags that others need, whatever their value


class OneLineParser(ArgumentParser):
    """jsonargparse's parser, whose errors are one line on stderr and exit code 2, and which takes text as it is typed.

    jsonargparse reads what is typed for `str | None` as YAML, in which # or ~ or Null is nothing. Such flags are added
    as `str` and named in `optional`, and the word null alone stands for None.
    """

    optional: frozenset[str] = frozenset()

    def parse_args(self, args=None, *given, **named):
        try:
            namespace = super().parse_args(args, *given, **named)
        except OverflowError:
            self.error(_too_large(" ".join(args or ())))
        for name in self.optional & vars(namespace).keys():
            if namespace[name] == "null":
                namespace[name] = None
        return namespace

    def error(self, message: str, ex: Exception | None = None):
        message = re.sub(r'Parser key "(\w+)"(?: element \d+)?:', lambda match: f"--{dashed(match[1])}:", str(message))
        message = re.sub(r"Expected an? (?:<class '(\w+)'>|typing\.Literal(\[[^]]*\]))\.", r"expected \1\2,", message)
        message = " ".join(message.replace("Got value:", "got").replace("typing.", "").split())
        union = r"Does not validate .*?(?:Literal(\[[^]]*\])|<class '(\w+)'>).*Given value: "
        message = re.sub(union, r"expected \1\2 or null, got ", message)
        if unknown := re.match(r"[Uu]nrecognized arguments: (--[\w-]+)", message):
            negative = unknown[1].startswith("--no-")  # its opposite would be the nearest
            flags = [flag for flag in self._option_string_actions if flag.startswith("--no-") == negative]
            near = difflib.get_close_matches(dashed(unknown[1]), flags, 1, cutoff=0.8)
            message += "".join(f"; the nearest is {flag}" for flag in near)
        message = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
        if not self.exit_on_error:
            raise ValueError(message)
        self.exit(2, f"error: {message}\n")


def _too_large(text: str) -> str:
    """What an error says of the flag or key in `text` whose whole number is larger than any float."""
    found = re.search(r"([\w-]+)(?:=|: *| )([+-]?\d{300,})", text)
    if found is None:
        return "a number is larger than 1.8e308; expected one below"
    return (
        f"--{found[1].removeprefix('--')} is {found[2][:10]}..., of {len(found[2])} digits; expected less than 1.8e308"
    )


class _SettingsParser(OneLineParser):
    """Flags of every day in `--help`, all of them in `--help-all`."""

    rare: frozenset[str] = frozenset()  # what `--help` leaves out

    def parse_args(self, args=None, *given, **named):
        return super().parse_args(None if args is None else _with_lists(args), *given, **named)

    def dump(self, cfg: Namespace, **unused) -> str:
        """What `--print-config` prints: the settings, and the flags that a command has beside them."""
        settings = to_settings(cfg)
        others = {"config", "resume", *vars(settings)}
        own = {dashed(name): value for name, value in vars(cfg).items() if name not in others}
        return (yaml.safe_dump(own, sort_keys=False) if own else "") + settings.to_yaml()

    def format_help(self, *formatter, **named) -> str:
        helps = {action: action.help for action in self._actions if action.dest in self.rare}
        for action in helps:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help(*formatter, **named)
        finally:
            for action, text in helps.items():
                action.help = text


class _HelpAll(argparse.Action):
    """Show all flags and exit."""

    def __init__(self, **options):
        super().__init__(nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser, *unused):
        parser.rare = frozenset()
        parser.print_help()
        parser.exit()


def _with_lists(arguments: Sequence[str]) -> list[str]:
    """The arguments, with all names that follow a flag of `LISTS` in one: a list as YAML has it."""
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, has_value, value = argument.partition("=")
        if flag not in LISTS:
            joined.append(argument)
            continue
        values = [value] if has_value else []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if not values:
            joined.append(argument)  # for the error that a value is missing
        elif values == ["null"] or (len(values) == 1 and values[0].startswith("[")):
            joined.append(f"{flag}={values[0]}")
        else:
            joined.append(f"{flag}={json.dumps(values)}")
    return joined


def make_parser(
    command: str = "classify", description: str = "Train, test and report a classifier of long documents."
) -> ArgumentParser:
    """The parser of `classify.py`: one flag for each field of `Settings`, --config, --print-config and --resume."""
    fields = dataclasses.fields(Settings)
    parser = _SettingsParser(
        prog=spoken(command),
        usage="%(prog)s [--config FILE] [--FLAG VALUE ...]",
        description=f"{description} A flag overrides the YAML file's key of the same name.",
        print_config="--print-config",
        allow_abbrev=False,
    )
    parser.rare = frozenset(field.name for field in fields if not field.metadata["daily"])
    parser.add_argument("--help-all", action=_HelpAll, help=f"show all {len(fields)} settings, not these alone")
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file of these flags")
    parser.add_argument(
        "--resume",
        type=str,
        default=None,
        metavar="RUN",
        help="continue the run in this folder with its own config.yaml. The only other flags that may be given are "
        "--max-time, --tokens-per-batch, --auto-batch, a lower --learning-rate, and those that say how many devices "
        "there are and where files are",
    )
    types = get_type_hints(Settings)
    parser.optional = frozenset(name for name, kind in types.items() if kind == str | None) | {"resume"}
    for field in fields:
        if field.metadata["group"] is not None:
            group = parser.add_argument_group(field.metadata["group"])
        option = f"--{dashed(field.name)}"
        kind: dict[str, Any]
        if field.name == "sparse":  # --dense is its opposite
            kind = {"action": ActionYesNo(yes_prefix="sparse", no_prefix="dense")}
        elif types[field.name] is bool:
            kind = {"action": ActionYesNo(no_prefix="no-")}
        else:
            kind = {"type": str if field.name in parser.optional else types[field.name]}
        group.add_argument(option, default=field.default, help=field.metadata["help"], **kind)
    return parser


def read_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[Namespace, dict, list[str]]:
    """Everything with its defaults, what was typed as a flag, and the YAML files.

    Raises:
        ValueError: a YAML file that is none of flags, which it names.
    """
    files, flags = split_config(arguments)
    for file in files:
        _read_config(Path(file), parser)  # for an error that names the file
    namespace = parser.parse_args([*(f"--config={file}" for file in files), *flags])
    return namespace, vars(parser.parse_args(flags, defaults=False)), files


def to_settings(namespace: Namespace) -> Settings:
    """The settings among all that was parsed."""
    return Settings(**{field.name: namespace[field.name] for field in dataclasses.fields(Settings)})


def parse(arguments: Sequence[str]) -> tuple[Settings, Path | None]:
    """Read the command line and its YAML file.

    Returns:
        The settings, and the run folder to resume (then the settings are that run's own) or None.

    Exits with code 2 and one line on stderr where a flag, key or value is wrong; with 0 after --help, --print-config.
    """
    parser = make_parser()
    try:
        namespace, given, files = read_arguments(parser, arguments)
        if namespace.resume is None:
            settings = to_settings(namespace)
            check_typed(given, [settings], "--chunked")
            if settings.folds is not None and settings.fold is None:
                raise ValueError(f"--folds is {settings.folds}; expected --fold too, or sweep.py, which runs all folds")
            return settings, None
        run = Path(namespace.resume)
        stored = run / "config.yaml"
        if not stored.is_file():
            raise ValueError(f"--resume is {run}; expected a run folder, with config.yaml in it")
        extra = [name for name in given if name not in ("resume", "learning_rate", *MAY_CHANGE)]
        if extra or files:
            allowed = ", ".join(f"--{dashed(name)}" for name in sorted(MAY_CHANGE))
            name = dashed(extra[0]) if extra else "config"
            raise ValueError(f"--{name} cannot be given with --resume; only {allowed} and a lower --learning-rate can")
        changed = {name: given[name] for name in (MAY_CHANGE | {"learning_rate"}) & given.keys()}
        before = load_settings(stored)
        settings = dataclasses.replace(before, **changed)
        if cast(float, settings.learning_rate) > cast(float, before.learning_rate):  # null has been put in
            raise ValueError(
                f"--learning-rate is {settings.learning_rate}; expected at most the run's {before.learning_rate}"
            )
        return dataclasses.replace(settings, **_places(settings, changed, run)), run
    except ValueError as error:
        parser.error(str(error))


def _places(settings: Settings, changed: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Where files are that a resumed run names relative to the folder that it began in, if that is another.

    Raises:
        ValueError: the documents are neither there nor here.
    """
    try:
        began = (RunFolder(run).described() or {}).get("folder", ".")
    except ValueError:
        return {}  # data.json is damaged, which opening the run says
    places = {}
    for name in ("dataset", "root", "validation", "test"):
        path = getattr(settings, name)
        if path is None or name in changed or (name == "dataset" and path in NAMED) or Path(path).expanduser().exists():
            continue
        there = Path(began, path)
        if not there.exists():
            raise ValueError(f"--{name} is {path}, which is not here nor in {began}, where that run began; expected it")
        places[name] = str(there)
    return places


def check_typed(given: dict, runs: Sequence[Settings], chunked: str):
    """Raise ValueError for a flag that was typed and that none of the runs reads.

    Args:
        given: the flags that were typed, and their values.
        chunked: what asks for windows.
    """
    chosen = "sparse" in given or "kinds" in given  # who types --dense knows what it turns off
    fields = {field.name: field.metadata for field in dataclasses.fields(Settings)}
    for name, value in given.items():
        about: Mapping[str, Any] = fields.get(name, {})
        reason = None
        if about.get("only") == "sparse" and not chosen and not any(run.sparse for run in runs):
            reason = "it needs --sparse"
        elif about.get("only") == "chunked" and "kinds" not in given and not any(run.chunked for run in runs):
            reason = f"it needs {chunked}"
        elif about.get("only") in VALUED and not any(getattr(run, about["only"]) for run in runs):
            reason = f"it needs --{dashed(about['only'])}"
        elif about.get("scratch") and runs[0].pretrained is not None:
            reason = f"it cannot be used with --pretrained {runs[0].pretrained}, which decides that"
        elif name == "test_share" and runs[0].folds is not None:
            reason = f"it cannot be used with --folds {runs[0].folds}, whose parts are the tests"
        elif name == "embeddings" and value is not None and runs[0].init_from is not None:
            reason = f"it cannot be used with --init-from {runs[0].init_from}, which brings its own"
        if reason is not None:
            raise ValueError(f"--{dashed(name)} is {value}; {reason}")


def load_settings(path: Path) -> Settings:
    """The settings in a YAML file that `Settings.to_yaml` wrote, with what they meant then.

    Raises:
        ValueError: not such a file.
    """
    parser = make_parser()
    try:
        found = _read_config(path, parser)
        if found.dataset not in NAMED:  # what runs on one's own files did before there were flags for it
            before = {field.name: field.metadata["before"] for field in dataclasses.fields(Settings)}
            parser.set_defaults({name: value for name, value in before.items() if value is not None})
            found = _read_config(path, parser)
        return to_settings(found)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None


def flags_to_resume(path: Path, settings: Settings) -> list[str]:
    """The flags with which a run whose config.yaml is at `path` goes on: --resume, and what may be another and is.

    Raises:
        ValueError: the file is damaged.
    """
    before = load_settings(path)
    flags = ["--resume", str(path.parent)]
    for name in sorted(MAY_CHANGE):
        value = getattr(settings, name)
        if value == getattr(before, name):
            continue
        if isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{dashed(name)}")
        else:
            flags.append(f"--{dashed(name)}={'null' if value is None else value}")
    return flags


def _read_config(path: Path, parser: ArgumentParser) -> Namespace:
    exits, parser.exit_on_error = parser.exit_on_error, False
    try:
        return parser.parse_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a YAML file of flags") from None
    except OverflowError:
        raise ValueError(f"{path}: {_too_large(path.read_text(encoding='utf-8'))}") from None
    except Exception as error:  # jsonargparse, PyYAML and the decoder raise many kinds
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    finally:
        parser.exit_on_error = exits


def split_config(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files after --config, and the other arguments: jsonargparse lets the later one win, here any flag wins."""
    files, flags = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config":
            files.append(next(rest, ""))
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            flags.append(argument)
    return files, flags
