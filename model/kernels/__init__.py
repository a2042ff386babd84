"""The expert layer on a GPU: Triton kernels, what they cost, and what can be checked without one.

`ops.moe` is the one call. `metadata` sorts slots by expert; `forward`, `backward` and `pool` hold
nothing but kernels; `flow` allocates and launches them; `plans` chooses tiles from `configs.json`.
`aot`, `costs`, `report` and `check` verify: `python -m model.kernels.report` compiles everything
for GPUs that are not there, `python -m model.kernels.check` measures on one that is.
"""
