"""Who meets on a CPU, checked and then timed in turn, A B A B, so that ratios hold when the machine's speed drifts.

Letters: B batch, H heads, N tokens, L the longest sequence of a batch, D head dimension.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from flash_sparse import BlockLayout, attention
from flash_sparse_apps.benchmarking.cell import failure
from flash_sparse_apps.benchmarking.check import check, check_agreement
from flash_sparse_apps.benchmarking.contenders import CONTENDERS, Attention, compiled_flex, layout_to_block_mask
from flash_sparse_apps.benchmarking.problem import PRODUCTS, Case, Problem
from flash_sparse_apps.benchmarking.spinning import spinning
from flash_sparse_apps.benchmarking.stopwatch import spread

DEVICE = torch.device("cpu")
BASELINE = "SDPA"
Times = dict[str, list[float]]  # a pass to its milliseconds in each round


class Contest:
    """One contender on one case.

    Args:
        attend: of query, key and value as `arrange` gives them.
        arrange: the case's tensors, (B, H, N, D), as the contender wants them; not timed. `restore` is its inverse.
    """

    def __init__(
        self,
        contender: str,
        case: Case,
        attend: Attention,
        has_backward: bool = True,
        arrange: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        restore: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ):
        self.contender, self.case, self.has_backward = contender, case, has_backward
        self._attend, self._arrange, self._restore = attend, arrange, restore
        self._inputs = [arrange(tensor.detach()).requires_grad_(has_backward) for tensor in case.inputs]
        self._grad_output = arrange(case.grad_output)

    def check(self) -> list[Tensor]:
        """Output and gradients, (B, H, N, D) each, after a comparison with the textbook formula.

        Raises:
            WrongResultError: they are wrong.
        """
        check(self._attend_as_the_case_lies, self.case, self.has_backward)
        output = self._attend(*self._inputs)
        gradients = torch.autograd.grad(output, self._inputs, self._grad_output) if self.has_backward else ()
        return [self._restore(tensor) for tensor in (output.detach(), *gradients)]

    def _attend_as_the_case_lies(self, *inputs: Tensor) -> Tensor:
        return self._restore(self._attend(*map(self._arrange, inputs)))

    def milliseconds(self) -> dict[str, float]:
        """Of each pass, in one run."""
        start = time.perf_counter()
        output = self._attend(*self._inputs)
        middle = time.perf_counter()
        forward = 1e3 * (middle - start)
        if not self.has_backward:
            return {"forward": forward}
        torch.autograd.grad(output, self._inputs, self._grad_output)
        backward = 1e3 * (time.perf_counter() - middle)
        return {"forward": forward, "backward": backward, "both": forward + backward}


def dense_and_sparse(problem: Problem, densities: Sequence[float], with_dense: bool) -> list[Contest]:
    """SDPA and `flash_sparse` dense, and at each density `flash_sparse` and FlexAttention with the same blocks.

    Args:
        problem: a dense one.
    """
    dense = Case(problem, DEVICE)
    contests = []
    if with_dense:
        contests.append(Contest(BASELINE, dense, scaled_dot_product_attention))
        contests.append(Contest("flash_sparse", dense, attention))
    for density in densities:
        layout = problem.with_random_blocks(density).make_layout()
        sparse = dense.seen_through(layout)
        contests.append(Contest("flash_sparse", sparse, functools.partial(attention, layout=layout)))
        contests.append(Contest("FlexAttention", sparse, _flex(layout), has_backward=False))
    return contests


def _flex(layout: BlockLayout) -> Attention:
    mask = layout_to_block_mask(layout)
    return lambda query, key, value: compiled_flex()(query, key, value, block_mask=mask)


def packed(case: Case) -> list[Contest]:
    """SDPA on sequences side by side, padded to the longest, and `flash_sparse` on the same end to end."""
    lengths = torch.tensor(case.lengths)  # (B,)
    real = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, L)

    def pad(tensor: Tensor) -> Tensor:  # (1, H, total, D)
        padded = tensor.new_zeros(*real.shape, tensor.shape[1], tensor.shape[3])  # (B, L, H, D)
        return padded.masked_scatter(real[..., None, None], tensor[0].transpose(0, 1)).transpose(1, 2)  # (B, H, L, D)

    def unpad(tensor: Tensor) -> Tensor:  # (B, H, L, D)
        return tensor.transpose(1, 2)[real].transpose(0, 1)[None]  # (1, H, total, D)

    on_padded = functools.partial(scaled_dot_product_attention, attn_mask=real[:, None, None])  # (B, 1, 1, L)
    ours = CONTENDERS["flash_sparse"].attend(case, None)
    return [Contest(BASELINE, case, on_padded, arrange=pad, restore=unpad), Contest("flash_sparse", case, ours)]


def compete(contests: Sequence[Contest], repeats: int, spinning_counts: Sequence[int]) -> list[dict]:
    """A row for each contest and each number of spinning processes beside it.

    Who is wrong or fails is not timed, and its row says so. Ratios, to the first contest if that is the baseline and
    to the row without spinning processes, are medians over those of each round.
    """
    rows, standing = [], []
    right: dict[int, tuple[str, list[Tensor]]] = {}  # layout to who was first to have results for it, and these
    for contest in contests:
        case = contest.case
        row = {
            "contender": contest.contender,
            "heads": case.problem.heads,
            "head_dim": case.problem.head_dim,
            "length": case.problem.length,
            "sequences": max(1, len(case.lengths)),
            "dtype": case.problem.dtype,
            "threads": torch.get_num_threads(),
            "density": case.density,
        }
        try:
            results = contest.check()
            first, others = right.setdefault(id(case.layout), (contest.contender, results))
            check_agreement(results, others, first)
        except Exception as error:  # whatever it is, it is this contest's result
            rows.append(row | failure(error))
        else:
            standing.append((contest, row | {"status": "timed"}))
    right.clear()

    times: list[dict[int, dict[str, list[float]]]] = [{count: {} for count in spinning_counts} for _ in standing]
    for _ in range(repeats):
        for count in spinning_counts:
            with spinning(count):
                for (contest, _), own in zip(standing, times, strict=True):
                    for what, milliseconds in contest.milliseconds().items():
                        own[count].setdefault(what, []).append(milliseconds)
    baseline = times[0] if standing and standing[0][0].contender == BASELINE else None
    for (contest, row), own in zip(standing, times, strict=True):
        for count in spinning_counts:
            beside = None if baseline is None else baseline[count]
            quiet = own[spinning_counts[0]] if count else None
            rows.append({**row, "spinning": count, **_figures(contest.case, own[count], beside, quiet)})
    return rows


def _figures(case: Case, own: Times, baseline: Times | None, quiet: Times | None) -> dict[str, dict[str, float]]:
    found = {}
    for what in PRODUCTS:
        if what not in own:
            continue
        found[what] = spread(own[what])
        found[what]["GFLOP/s"] = case.flops(what) / found[what]["ms"] / 1e6
        if baseline is not None:
            found[what]["times SDPA"] = _median_ratio(baseline[what], own[what])
        if quiet is not None:
            found[what]["slow-down"] = _median_ratio(own[what], quiet[what])
    return found


def _median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(first / second for first, second in zip(above, below, strict=True))
