"""What the benchmark counts, checks and says: sizes of a toy, on a CPU."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from flash_sparse import attention
from flash_sparse_apps import benchmark
from flash_sparse_apps.benchmarking import contenders, flags
from flash_sparse_apps.benchmarking.check import WrongResultError, check
from flash_sparse_apps.benchmarking.contenders import CONTENDERS, block_mask
from flash_sparse_apps.benchmarking.densities import PATTERNS, layout_of_density
from flash_sparse_apps.benchmarking.grid import Sizes, make_cells
from flash_sparse_apps.benchmarking.plots import draw
from flash_sparse_apps.benchmarking.problem import Case, Problem
from flash_sparse_apps.benchmarking.summary import summarize
from flash_sparse_apps.benchmarking.tables import markdown_table, text_table

CPU = torch.device("cpu")
DENSE = Problem(2, 2, 75, 8, "float32", block_size=16)
PROBLEMS = {
    "dense": DENSE,
    "causal": dataclasses.replace(DENSE, mask="causal"),
    "padded": dataclasses.replace(DENSE, mask="padded"),
    "packed": dataclasses.replace(DENSE, batch=1, mask="packed", document_length=20),
    **{pattern: dataclasses.replace(DENSE, mask=pattern, density=0.4) for pattern in PATTERNS},
}
SIZES = Sizes(
    length=128,
    lengths=(64, 128),
    head_dims=(8, 16),
    width=32,
    tokens=256,
    densities=(0.5, 0.25),
    block_size=16,
    dtype="float32",
)


def mask_by_definition(case: Case) -> Tensor:
    """Pair by pair, bool, (B, H, N, N)."""
    problem = case.problem
    mask = torch.ones(problem.batch, problem.heads, problem.length, problem.length, dtype=torch.bool)
    if problem.mask == "causal":
        return mask.tril()
    if problem.mask == "padded":
        for entry, length in enumerate(case.key_lengths.tolist()):
            mask[entry, :, :, length:] = False
    elif problem.mask == "packed":
        mask[:] = False
        starts = case.cu_seqlens.tolist()
        for start, stop in itertools.pairwise(starts):
            mask[:, :, start:stop, start:stop] = True
    elif case.layout is not None:
        mask &= case.layout.to_mask()
    return mask


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
class TestProblem:
    def test_flops_are_those_of_the_visible_pairs(self, problem):
        case = Case(problem, CPU)
        pairs = int(mask_by_definition(case).sum())
        assert case.pairs == pairs
        assert case.density == pairs / (2 * 75 * 75 * problem.batch)
        # a product of matrices costs a multiplication and an addition for each pair and feature
        assert case.flops("forward") == 2 * 2 * 8 * pairs
        assert case.flops("backward") == 5 * 2 * 8 * pairs
        assert case.flops("both") == 7 * 2 * 8 * pairs

    def test_mask_over_tokens(self, problem):
        case = Case(problem, CPU)
        mask = case.token_mask()
        expected = mask_by_definition(case)
        if mask is None:
            assert expected.all()
        else:
            assert torch.equal(mask.expand_as(expected), expected)

    def test_contenders_agree(self, problem):
        """flash_sparse, PyTorch's two, and the textbook, outputs and gradients."""
        case = Case(problem, CPU)
        for name in ("flash_sparse", "SDPA math", "textbook"):
            contender = CONTENDERS[name]
            assert check(contender.attend(case, contender.make_mask(case)), case) < 32

    @pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
    def test_flex_attention_sees_the_same(self, problem):
        case = Case(problem, CPU)
        mask = block_mask(case)
        if case.layout is None:
            check(functools.partial(flex_attention, block_mask=mask), case, has_backward=False)
        else:  # made for the compiled function alone, which asks no function about full blocks
            assert torch.equal(mask.to_dense().bool(), case.layout.to_blocks())
            assert not mask.kv_num_blocks.any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_come_near_the_density(pattern):
    for density in (1 / 4, 1 / 8):
        layout = layout_of_density(pattern, 64 * 16, 16, density, heads=2)
        assert layout.density == pytest.approx(density, rel=0.2)


class TestCheck:
    """What is wrong is found, whatever it is."""

    CASE = Case(dataclasses.replace(DENSE, mask="random", density=0.4), CPU)

    def right(self, *inputs: Tensor) -> Tensor:
        return attention(*inputs, layout=self.CASE.layout)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_low_precision_passes(self, dtype):
        for mask in ("causal", "random", "dense"):
            case = Case(dataclasses.replace(DENSE, mask=mask, dtype=dtype, length=160), CPU)
            contender = CONTENDERS["flash_sparse"]
            assert 0 < check(contender.attend(case, contender.make_mask(case)), case) < 4

    def test_wrong_scale(self):
        with pytest.raises(WrongResultError, match="the output differs"):
            check(lambda *inputs: self.right(*inputs) * 1.0001, self.CASE)

    def test_one_wrong_row(self):
        def attend(*inputs):
            output = self.right(*inputs)
            return output.index_fill(2, torch.tensor([74]), 0.0)

        with pytest.raises(WrongResultError, match="the output differs"):
            check(attend, self.CASE)

    def test_one_wrong_element(self):
        """Too little for a mean over all rows, in the lowest precision."""
        case = Case(Problem(1, 2, 160, 64, "bfloat16"), CPU)

        def attend(*inputs):
            output = attention(*inputs)
            wrong = torch.zeros_like(output)
            wrong[0, 0, 0, 0] = 0.3 * output.detach().abs().max()
            return output + wrong

        with pytest.raises(WrongResultError, match="the output differs"):
            check(attend, case)

    def test_one_block_too_many(self):
        blocks = self.CASE.layout.to_blocks().clone()
        blocks[0, 0, 3, blocks[0, 0, 3].int().argmin()] = True
        wrong = type(self.CASE.layout).from_blocks(blocks, 16, 75)
        with pytest.raises(WrongResultError):
            check(lambda *inputs: attention(*inputs, layout=wrong), self.CASE)

    def test_nan(self):
        with pytest.raises(WrongResultError, match="nan"):
            check(lambda *inputs: self.right(*inputs) * torch.nan, self.CASE)

    @pytest.mark.parametrize(("number", "name"), [(0, "query"), (1, "key"), (2, "value")])
    def test_wrong_gradient(self, number, name):
        def attend(*inputs):
            inputs = list(inputs)
            doubled = inputs[number]
            inputs[number] = doubled * 2 - doubled.detach()  # the same value, twice the gradient
            return self.right(*inputs)

        with pytest.raises(WrongResultError, match=f"the {name}'s gradient differs"):
            check(attend, self.CASE)

    @pytest.mark.parametrize("mask", ["dense", "random", "packed"])
    def test_dropout(self, mask):
        problem = dataclasses.replace(PROBLEMS[mask], length=256, dropout_p=0.1)
        case = Case(problem, CPU)
        for name in ("flash_sparse", "textbook"):
            contender = CONTENDERS[name]
            assert check(contender.attend(case, contender.make_mask(case)), case) == pytest.approx(1, abs=0.3)

    @pytest.mark.parametrize("dropout_p", [0.0, 0.2])
    def test_wrong_dropout(self, dropout_p):
        case = Case(dataclasses.replace(DENSE, length=256, dropout_p=0.1), CPU)
        with pytest.raises(WrongResultError, match="expected variance"):
            check(lambda *inputs: attention(*inputs, dropout_p=dropout_p), case)

    def test_another_dropout_mask_backward(self):
        case = Case(dataclasses.replace(DENSE, heads=8, length=256, dropout_p=0.1), CPU)

        def attend(*inputs):
            output, other = (attention(*inputs, dropout_p=0.1) for _ in range(2))
            return output.detach() + other - other.detach()

        with pytest.raises(WrongResultError, match="different probabilities"):
            check(attend, case)


class TestGrid:
    CELLS = make_cells(SIZES)

    def test_every_cell_is_there_once(self):
        assert len({cell.key for cell in self.CELLS}) == len(self.CELLS)
        wanted = {
            *((name, "dense", length, head_dim, 0.0) for name in CONTENDERS for length in (64, 128)
              for head_dim in (8, 16) if name != "varlen_attn"),
            *((name, mask, 128, head_dim, dropout_p) for name in ("flash_sparse", "FlexAttention", "SDPA efficient")
              for mask in ("dense", "padded") for head_dim in (8, 16) for dropout_p in (0.0, 0.1)),
            *((name, "packed", 512, head_dim, dropout_p) for name in CONTENDERS for head_dim in (8, 16)
              for dropout_p in (0.0, 0.1)),
        }  # fmt: skip
        problems = [(cell.contender, cell.problem) for cell in self.CELLS]
        assert wanted <= {(name, own.mask, own.length, own.head_dim, own.dropout_p) for name, own in problems}
        densities = {(name, own.mask, own.head_dim, own.density) for name, own in problems if own.length == 128}
        for name in ("flash_sparse", "FlexAttention"):
            assert densities >= {
                (name, pattern, d, share) for pattern in PATTERNS for d in (8, 16) for share in (0.5, 0.25)
            }

    def test_sizes_make_the_same_tokens_and_width(self):
        for problem in (cell.problem for cell in self.CELLS if cell.problem.mask in ("dense", "causal", *PATTERNS)):
            assert problem.batch * problem.length == 256
            assert problem.heads * problem.head_dim == 32

    def test_the_most_worth_comes_first(self):
        assert (self.CELLS[0].contender, self.CELLS[0].problem.mask, self.CELLS[0].problem.length) == (
            "flash_sparse",
            "dense",
            128,
        )
        slow = [cell.contender in ("SDPA math", "textbook") for cell in self.CELLS]
        assert slow == sorted(slow)

    def test_who_masks_all_pairs_is_timed_at_one_density(self):
        for cell in self.CELLS:
            if cell.problem.mask in PATTERNS and cell.contender not in ("flash_sparse", "FlexAttention"):
                assert cell.problem.density == 0.25


def timed_row(contender: str, mask: str, density: float, ms: float, **changes) -> dict:
    problem = dataclasses.replace(DENSE, mask=mask, density=density, **changes)
    figures = {what: {"ms": ms, "TFLOP/s": 1 / ms} for what in ("forward", "backward", "both")}
    row = {"contender": contender, **dataclasses.asdict(problem), "counted_density": density}
    return {**row, "status": "timed", **figures, "mask_ms": 0.5}


class TestSummary:
    ROWS = (
        timed_row("flash_sparse", "dense", 1.0, 10.0),
        timed_row("SDPA flash", "dense", 1.0, 5.0),
        timed_row("flash_sparse", "random", 0.125, 2.0),
        timed_row("FlexAttention", "random", 0.125, 3.0),
        {
            **timed_row("textbook", "random", 0.125, 1.0),
            "status": "out of memory",
            "reason": "9 GiB more | were wanted",
        },
    )

    def test_ratios(self):
        tables = summarize(self.ROWS)
        assert [row["over flash_sparse"] for row in tables["dense"]] == [1.0, 0.5]
        ours, flex, textbook = tables["random"]
        assert (ours["over our dense"], flex["over our dense"]) == (0.2, 0.3)
        assert flex["over flash_sparse"] == 1.5
        assert textbook["result"] == "out of memory: 9 GiB more | were wanted"
        assert "both ms" not in textbook

    def test_other_sizes_are_not_compared(self):
        (row,) = summarize([self.ROWS[0], timed_row("SDPA flash", "dense", 1.0, 5.0, length=64)])["dense"][:1]
        assert row["length"] == 64
        assert row["over flash_sparse"] is None

    def test_tables(self):
        rows = summarize(self.ROWS)["random"]
        heads, rule, *lines = markdown_table("random", rows).splitlines()[2:]
        assert len(lines) == 3
        assert heads.count("|") == rule.count("|") == lines[0].count("|") == lines[2].replace("\\|", "").count("|")
        assert "| 0.1250 | FlexAttention | 3.00 |" in lines[1]
        assert len({len(line) for line in text_table("random", rows).splitlines()[2:]}) == 1

    def test_pictures(self):
        assert draw([]) == {}
        pictures = draw(self.ROWS)
        assert set(pictures) == {"speed_over_length.png", "speedup_over_density.png"}
        assert all(png.startswith(b"\x89PNG") and len(png) > 5000 for png in pictures.values())
        assert set(draw(self.ROWS[:2])) == {"speed_over_length.png"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here")
def test_the_flags_know_the_contenders_without_importing_them():
    assert tuple(CONTENDERS) == flags.CONTENDERS


def test_without_a_gpu_one_line_says_so(capsys, tmp_path):
    assert benchmark.main(["--device", "cuda", "--output", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == "error: --device is cuda, but PyTorch finds no CUDA GPU here\n"
    assert not (tmp_path / "none").exists()


def code_of(arguments) -> int:
    """The exit code; the parser ends with SystemExit, as argparse's does."""
    try:
        return benchmark.main(arguments)
    except SystemExit as end:
        return int(end.code)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "tpu"], "--device"),
        (["--device"], "--device"),
        (["--device", "cuda", "--densities", "2"], "--densities is 2; expected a share"),
        (["--device", "cuda", "--lengths", "64", "0"], "--lengths is 0; expected at least 1"),
        (["--device", "cuda", "--block-size", "48"], "block_size is 48"),
        (["--device", "cuda", "--repeats", "3"], "repeats"),
        (["--device", "cpu", "--max-time", "3"], "max-time"),
    ],
)
def test_wrong_arguments(capsys, flags, message):
    assert code_of(flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_compiled_flex_never_falls_back(monkeypatch):
    """The uncompiled formula is no FlexAttention: past the compiler's limits there must be an error."""
    asked = {}
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.update(options))
    contenders.compiled_flex.__wrapped__()
    assert asked == {"dynamic": False, "fullgraph": True}
