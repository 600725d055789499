"""The flags of each kind of benchmark: `--help` shows them, and wrong ones end, before torch is imported."""

from __future__ import annotations

from typing import Literal

from flash_sparse_apps.command_line import OneLineParser
from flash_sparse_apps.console import spoken

CONTENDERS = (  # the keys of `contenders.CONTENDERS`, in their order
    "flash_sparse", "FlexAttention", "SDPA flash", "SDPA cuDNN", "SDPA efficient", "varlen_attn", "SDPA math",
    "textbook",
)  # fmt: skip


def cpu_parser() -> OneLineParser:
    """The flags on a CPU."""
    parser = OneLineParser(
        prog=spoken("benchmark"),
        description="The benchmark of a CPU: forward, backward and both, dense, block-sparse and of short sequences. "
        "--device cuda --help shows the flags of the benchmark of a GPU, --steps --help those for training steps.",
    )
    parser.add_argument("--device", type=Literal["cpu", "cuda"], default="cpu", help="where; each has flags of its own")
    parser.add_argument("--heads", type=int, default=4, help="attention heads, batch 1")
    parser.add_argument("--head-dims", type=int, nargs="+", default=[32, 64, 128], help="features of a head")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192], help="tokens")
    parser.add_argument("--densities", type=str, nargs="+", default=["1/4", "1/16"],
                        help="shares of blocks that random layouts keep; not where a row would keep none")  # fmt: skip
    parser.add_argument("--block-size", type=int, default=128, help="tokens along each side of a block")
    parser.add_argument(
        "--dtype", type=Literal["float32", "bfloat16", "float16"], default="float32", help="type of the tensors"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=None,
                        help="threads that compute; null: one, and then as many as PyTorch takes")  # fmt: skip
    parser.add_argument("--busy", action="store_true",
                        help="measure also while as many idle-priority processes spin as there are cores")  # fmt: skip
    parser.add_argument("--longest-dense", type=int, default=16384, help="tokens up to which dense attention is timed")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each contender")
    parser.add_argument("--output", type=str, default=None, help="folder for benchmark.json, benchmark.md and a plot")
    return parser


def gpu_parser() -> OneLineParser:
    """The flags behind `--device cuda`."""
    parser = OneLineParser(
        prog=f"{spoken('benchmark')} --device cuda",
        description="The benchmark of a GPU: cell after cell, until --max-time; with the same --output, another call "
        "goes on.",
    )
    parser.add_argument(
        "--device", type=Literal["cpu", "cuda"], default="cuda", help="where; each has flags of its own"
    )
    parser.add_argument("--length", type=int, default=16384, help="tokens where the length is held fixed")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2**power for power in range(9, 17)],
                        help="tokens where it varies")  # fmt: skip
    parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 128], help="features of a head")
    parser.add_argument("--width", type=int, default=2048, help="features of all heads together")
    parser.add_argument("--tokens", type=int, default=16384, help="of a call: shorter sequences come in batches")
    parser.add_argument("--densities", type=str, nargs="+",
                        default=["9/10", "1/2", "1/4", "1/8", "2/21", "1/16", "1/32"],
                        help="shares of blocks that patterns keep")  # fmt: skip
    parser.add_argument("--block-size", type=int, default=128, help="tokens along each side of a block")
    parser.add_argument(
        "--dtype", type=Literal["bfloat16", "float16", "float32"], default="bfloat16", help="type of the tensors"
    )
    parser.add_argument("--contenders", type=Literal[CONTENDERS], nargs="+", default=list(CONTENDERS),
                        help="which of them to measure")  # fmt: skip
    parser.add_argument("--max-time", type=float, default=None, help="minutes in which to end; null: no limit")
    parser.add_argument("--output", type=str, default=None,
                        help="folder of results; cells that it holds are not measured again")  # fmt: skip
    return parser


def steps_parser() -> OneLineParser:
    """The flags behind `--steps`."""
    parser = OneLineParser(
        prog=f"{spoken('benchmark')} --steps",
        description="A training step of an encoder over length: our attention, PyTorch's, and the textbook's.",
    )
    parser.add_argument("--steps", action="store_true", help="time training steps instead of the operator")
    parser.add_argument("--device", type=Literal["cpu", "cuda"], default="cpu", help="where")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2**power for power in range(9, 15)],
                        help="tokens of a sequence")  # fmt: skip
    parser.add_argument("--tokens", type=int, default=16384, help="of a step: shorter sequences come in batches")
    parser.add_argument("--width", type=int, default=512, help="features of a token")
    parser.add_argument("--depth", type=int, default=4, help="layers")
    parser.add_argument("--heads", type=int, default=8, help="attention heads; must divide --width")
    parser.add_argument("--block-size", type=int, default=64, help="tokens along each side of a sparse layout's block")
    parser.add_argument("--window", type=int, default=128, help="tokens that a token of it sees on either side")
    parser.add_argument("--dtype", type=Literal["auto", "bfloat16", "float16", "float32"], default="auto",
                        help="arithmetic; auto: bfloat16 on a GPU, else float32")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="steps of each kind, in turn, after one to warm up")
    parser.add_argument("--output", type=str, default=None, help="folder for steps.json, steps.md and steps.png")
    return parser
