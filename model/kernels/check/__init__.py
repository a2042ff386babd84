"""The kernels on a GPU: python -m model.kernels.check --minutes 9 --out DIR

Stages in processes of their own, each with a limit: what one of them hangs on or dies of, the
others do not share, and what was found is written after each. `stages` runs them, `cases` names
what is checked, `numbers`, `speed`, `prepare` and `sanitize` are the stages, `table` prints.
"""
