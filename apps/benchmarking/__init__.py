"""The parts of `apps/benchmark.py`.

From the bottom up: `problem` (what is computed), `densities` (layouts of a given density), `contenders` (who computes
it), `check` (against the textbook in float64), `clock` (how time is taken); `operator_cell`, `building_cell` and
`step_cell` (one line of contenders each); `sections` (which cells), `supervisor` and `ahead` (the processes that
measure and compile), `store` (what is kept), `tables` and `plots` (what is shown). `cpu_questions` is the benchmark of
a CPU, on the same parts.
"""
