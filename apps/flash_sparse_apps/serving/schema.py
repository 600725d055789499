"""What requests and answers look like: text-embeddings-inference's form, and `detail`, which is ours."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from flash_sparse_apps.serving.limits import DOCUMENTS

# the first mistake ends the check: one for each of a million rows would take minutes
Document = Annotated[list[str], Field(max_length=2, fail_fast=True)]
Batch = Annotated[list[Document], Field(max_length=DOCUMENTS, fail_fast=True)]


class PredictRequest(BaseModel):
    """Other keys are ignored."""

    inputs: str | Document | Batch = Field(
        description="A text; a pair [text, text] for a run on pairs; or a batch of both, [[text], [text], ...].",
        examples=["The tenant shall pay the rent on the first day of each month."],
    )
    raw_scores: bool = Field(False, description="Scores before softmax or sigmoid, in place of probabilities.")
    truncate: bool | None = Field(
        False, description="Read the first tokens of a text that is too long. Otherwise it is refused with its length."
    )
    truncation_direction: Literal["left", "right", "Left", "Right"] = Field(
        "right", description="The side at which a text that is too long is cut."
    )
    detail: bool = Field(
        False, description="For each text an object: labels decided by the run's thresholds, probabilities and more."
    )
    evidence: bool = Field(
        True, description="With `detail`: look for the passages that carry each label, some forty readings of a text."
    )


class Score(BaseModel):
    label: str
    score: float


class Passage(BaseModel):
    """Characters `start` to `end` of the text, and how far the label's probability falls without them."""

    start: int
    end: int
    drop: float
    text: str


class Detail(BaseModel):
    """What predict.py prints for a document, and why it should be looked at."""

    id: str = Field(description="The file's name; of a text, its place in the request.")
    labels: list[str] = Field(description="Those that reach their threshold; single-label: the most probable one.")
    confidence: float = Field(description="How sure the labels are: the probability of the least sure decision.")
    probabilities: dict[str, float] = Field(description="Of all labels, the most probable first.")
    tokens: int = Field(description="Of the whole text, read or not.")
    truncated: bool
    review: list[str] = Field(description="Reasons to look at the decision; none where it is clear.")
    evidence: dict[str, list[Passage]] | None = Field(None, description="For each label its passages.")
    unknown: str | None = Field(None, description="The first word that the run does not know, for generated languages.")
    text: str | None = Field(None, description="Of a file: the text that was read, to which the passages refer.")


class Error(BaseModel):
    error: str
    error_type: Literal["Validation", "Tokenizer", "Backend", "Overloaded", "Unhealthy", "Empty"]
