"""Training that begins with the weights of a finished run: of an easier task, of smaller images, of shorter texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import nn

from flash_sparse.nn import Encoder
from flash_sparse_apps.models.blend import Blend
from flash_sparse_apps.models.calibrated import Calibrated
from flash_sparse_apps.models.saved_model import SavedModel, model_folder
from flash_sparse_apps.run_folder import RunFolder
from flash_sparse_apps.settings import Settings
from flash_sparse_apps.tokens.byte_tokenizer import ByteTokenizer
from flash_sparse_apps.tokens.tokenization import Tokenizer
from flash_sparse_datasets.shared.exit_codes import UserError

SIZES = ("width", "depth", "heads", "activation", "rotary")  # --mlp-width may be null, so the weights tell it


def check_start(run: str):
    """Raise UserError where `run` is no folder of a finished run, before anything takes long."""
    try:
        model_folder(run)
    except ValueError as error:
        raise UserError(f"--init-from: {error}") from error


def earlier_split(run: str, resumed: Path | None) -> Path | None:
    """Where it stands which documents trained `run`, a run folder or its `model/`; None for runs that do not say.

    Args:
        resumed: a run folder that began with it, and says so too: `run` may be gone by now.
    """
    folders = [Path(run), Path(run).parent, *([] if resumed is None else [resumed])]
    return next((path for path in (RunFolder(folder).split for folder in folders) if path.is_file()), None)


def earlier_tokenizer(run: str, resumed: Path | None) -> Tokenizer | None:
    """The tokenizer of `run`, whose weights know its tokens; None where it has none of texts.

    Args:
        resumed: as of `earlier_split`.
    """
    try:
        folder = model_folder(run)
    except ValueError:
        if resumed is None:
            raise
        folder = RunFolder(resumed).start
    try:
        tokenizer = Tokenizer.from_folder(folder)
    except ValueError:
        return None
    return None if tokenizer.has_fixed_words else tokenizer


def load_start(
    settings: Settings,
    arguments: dict,
    tokenizer: Tokenizer | ByteTokenizer,
    labels: tuple[str, ...],
    encoder: nn.Module,
) -> bool:
    """Put the weights of the run `settings.init_from` into `encoder`.

    Args:
        arguments: what `encoder` was made with.
        tokenizer, labels: of the data that it will be trained on.

    Returns:
        Whether the head is that run's too: where it was pooled in the same way for the same labels. Else it stays new.

    Raises:
        UserError: that run is not finished, or of another kind of encoder, other sizes or other tokens.
    """
    given = f"--init-from is {settings.init_from}"
    try:
        saved = SavedModel.load(str(settings.init_from))
    except ValueError as error:
        raise UserError(f"--init-from: {error}") from error
    before_encoder = saved.encoder
    while isinstance(before_encoder, Blend | Calibrated):
        before_encoder = before_encoder.encoder
    for model, whose in ((before_encoder, "whose model"), (encoder, "but the model to train")):
        if not isinstance(model, Encoder):
            raise UserError(
                f"{given}, {whose} is a {type(model).__name__}; expected an Encoder of single texts, without "
                "--pretrained and --chunked"
            )
    for name in SIZES:
        before, now = saved.encoder_arguments[name], arguments[name]
        if before != now:
            before, now = ("none" if value is None else value for value in (before, now))
            raise UserError(f"{given}, a run with --{name} {before}; expected the same here, not --{name} {now}")
    before, now = (cast(Any, model).layers[0].mlp.gate.out_features for model in (before_encoder, encoder))
    if before != now:
        raise UserError(f"{given}, a run with --mlp-width {before}; expected the same here, not --mlp-width {now}")
    if saved.tokenizer.fingerprint != tokenizer.fingerprint:
        raise UserError(f"{given}, whose tokens are others ({saved.dataset}); expected a run with the same tokenizer")
    with_head = saved.labels == labels and saved.encoder_arguments["pooling"] == arguments["pooling"]
    weights = before_encoder.state_dict()
    if not with_head:
        weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
    encoder.load_state_dict(encoder.state_dict() | weights)
    return with_head
