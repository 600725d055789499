"""The long-document classifier and the benchmark that stand on `flash_sparse`.

The commands are `classify`, `predict`, `sweep`, `curriculum` and `benchmark`. A run of `classify` is `training`, which
stands on `reports`, `prediction`, `models`, `scores`, `tokens` and `settings`, in this order, and leaves a
`run_folder`; `prediction` reads that again. `sweeping` and `lra` plan many such runs. `benchmarking` times attention,
and steps of an encoder.
"""
