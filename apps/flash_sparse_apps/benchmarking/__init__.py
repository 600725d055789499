"""The parts of the command `benchmark`.

`cpu` and `gpu` are its two commands, `steps` is what `--steps` asks for. On the way up to them: `problem` (what is
computed, and its layouts from `densities`), `contenders` (who computes it), `check` (against the textbook in float64),
`stopwatch` (all that differs between devices), `cell` (one contender on one problem), `grid` (which cells), `records`
(what is kept between calls), `summary`, `tables` and `plots` (what is shown).
"""
