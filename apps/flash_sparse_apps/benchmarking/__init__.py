"""The parts of the command `benchmark`.

`cpu` and `gpu` are its two commands, `steps` is what `--steps` asks for. On the way up to them: `problem` (what is
computed, and its layouts from `densities`), `contenders` (who computes it), `check` (against the textbook in float64),
`stopwatch` (all that differs between devices); for a GPU `cell` (a `GridCell`: one contender on one problem), `grid`
(which cells), `records` (what is kept between calls) and `summary`; for a CPU `contests` (who meets, in turn),
`spinning` (what makes it busy) and `footprint` (memory and layouts); `flags` (what may be asked for), `tables` and
`plots` (what is shown).
"""
