"""Files of a published model: from a folder, else from the local cache, else from the Hugging Face hub."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

SECONDS = 10.0  # in which the hub must answer


def fetch(load: Callable[..., Any], what: str, name_or_folder: str, **options) -> Any:
    """Call a `from_pretrained`; no code that comes with the files is run, and the hub is asked last.

    Args:
        load: such as `AutoConfig.from_pretrained`.
        what: what the error says could not be loaded, such as "tokenizer".
        options: further arguments of `load`.

    Raises:
        ValueError: one line that says why nothing could be loaded.
    """
    options["trust_remote_code"] = False
    cannot = f"{what} {name_or_folder!r} cannot be loaded; expected a folder or a name on the hub"
    path = os.fspath(name_or_folder)
    if (path.startswith((".", "~", os.sep)) or path.count("/") > 1) and not os.path.isdir(path):  # no name on the hub
        raise ValueError(f"{cannot}: no such folder")
    try:
        with _quiet():
            try:
                return load(name_or_folder, local_files_only=True, **options)
            except pickle.UnpicklingError:
                raise
            except Exception:
                if os.path.isdir(name_or_folder) or os.path.isabs(name_or_folder):
                    raise
                _check_connection()
                return load(name_or_folder, **options)
    except pickle.UnpicklingError as error:  # what it says is advice to run what is in the file
        raise ValueError(
            f"{what} {name_or_folder!r} has pickled weights with more than tensors in them; expected model.safetensors"
        ) from error
    except Exception as error:  # network, cache, missing file, unknown format: transformers raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{cannot}: {reason}") from error


def _check_connection():
    """Raise OSError where the hub cannot be reached: the libraries would try again and again for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # of whichever library the session is
        raise OSError(f"no connection to {constants.ENDPOINT}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' reports and advice off the console, and bars where nobody sees them."""
    from transformers.utils import logging as transformers_logging

    hub = logging.getLogger("huggingface_hub")
    level, verbosity = hub.level, transformers_logging.get_verbosity()
    without_bars = transformers_logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    # without it, a checkpoint of pickled tensors is sent to a service on the hub that converts it
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    hub.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    if without_bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if without_bars:
            transformers_logging.enable_progress_bar()
