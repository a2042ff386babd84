"""Subset curves: what a model loses when only some experts of every layer are kept.

Pure functions over the table that `python -m emo_viz curves` writes: one row per (model, domain,
method, keep_k, seed, document) with the summed held-out loss and the number of predicted tokens;
model is the id of a run. Runs may have different numbers of experts, and different tokenizers: then
a document has another number of tokens in each.

Conventions: a loss is in nats a token. An increase is the loss with a subset minus the loss of
the same model with all experts on the same documents: token-weighted inside a domain, then the
plain mean over domains. Intervals are 95 % percentile intervals over bootstrap resamples of the
documents, drawn inside each domain; every model and method sees the same resamples, so a ratio of
two of them is paired.
"""

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis.bootstrap import Interval, percentile_interval, resample_counts
from emo_viz.analysis.origins import Origins, version_1
from emo_viz.analysis.runs import VERSION_1, from_version_1, label_of
from model.files import check_new_file, new_file, read_json

FORMAT = "emo-viz-curves"
FORMAT_VERSION = 2
VERSIONS = (1, FORMAT_VERSION)
FULL = "full"
ROUTER_PROBABILITY = "router_probability"
GREEDY = "greedy"
RANDOM = "random"
OTHER_DOMAIN = "other_domain"
METHODS = (ROUTER_PROBABILITY, GREEDY, RANDOM, OTHER_DOMAIN)
CELL = ["model", "method", "keep_k", "seed"]
COLUMNS = ["model", "domain", "method", "keep_k", "seed", "document", "loss_sum", "tokens"]
TEXTS = dict.fromkeys(("model", "domain", "method", "document"), "str")
BY_RUN = ("runs", "models", "ranking", "greedy")  # in curves.json
TABLE_DIGEST = "table_sha256"  # in curves.json, of curves.parquet
SEEN_BELOW = "seen_below"  # in curves.json
DRAWS = 1000

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Curves:
    """Measured curves: the table, and in `info` how every point was made (curves.json).

    info, by run id: "runs" (num_experts, num_experts_per_tok and, where the layers differ,
    num_experts_per_layer), "models" (see `Origins`), "ranking" and "greedy" (by domain).
    SEEN_BELOW stands there where they are of the documents alone of which training has seen a
    smaller share.
    """

    rows: pd.DataFrame
    info: dict[str, Any]

    @property
    def seen_below(self) -> float | None:
        """See `info`; None where they are of all documents."""
        said = self.info.get(SEEN_BELOW)
        return float(said) if isinstance(said, int | float) else None

    @property
    def origins(self) -> Origins:
        """The models and documents that were measured, as far as curves.json says."""
        return Origins.from_dict(self.info)

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of the runs that were measured."""
        return tuple(self.info["runs"])

    def experts(self, run: str) -> tuple[int, ...]:
        """Experts of every layer of a run, shared ones counted; of one where all have as many.

        Raises ValueError for a run that was not measured.
        """
        if run not in self.info["runs"]:
            raise ValueError(f"The curves hold no run {run}; measure it and try again.")
        said = self.info["runs"][run]
        counts = said.get("num_experts_per_layer") or [said["num_experts"]]
        return tuple(int(count) for count in counts)

    def of_runs(self, runs: Sequence[str]) -> "Curves":
        """The curves of these runs alone, in this order. Raises ValueError if one is missing."""
        for run in runs:
            self.experts(run)
        own = {
            name: {run: self.info[name][run] for run in runs if run in self.info[name]}
            for name in BY_RUN
            if name in self.info
        }
        return Curves(self.rows[self.rows["model"].isin(runs)], self.info | own)

    def beside(self, others: "Curves") -> "Curves":
        """These curves, and of others those of the runs that these lack, if both were measured on
        the same documents with the same calibration; else these alone."""
        if self._measured_on != others._measured_on:
            return self
        kept = others.of_runs([run for run in others.runs if run not in self.runs])
        by_run = {name: self.info[name] | kept.info[name] for name in BY_RUN}
        rows = pd.concat([each.rows.astype(TEXTS) for each in (self, kept)], ignore_index=True)
        return Curves(rows.astype(dict.fromkeys(TEXTS, "category")), self.info | by_run)

    @property
    def _measured_on(self) -> tuple[object, ...]:
        return self.origins.documents, self.origins.calibration, self.seen_below

    def of_documents(self, ids: Collection[str]) -> "Curves":
        """The curves over these documents alone. Raises ValueError if none of them was measured."""
        rows = self.rows[self.rows["document"].astype(str).isin(ids)]
        if rows.empty:
            raise ValueError("The curves were measured on none of these documents.")
        return Curves(rows, self.info)

    def of_domain(self, domain: str | None) -> pd.DataFrame:
        """The rows of one domain, or of all domains for None."""
        return self.rows if domain is None else self.rows[self.rows["domain"] == domain]


class Cell(NamedTuple):
    """One column of measurements; a point of a curve is all seeds of (model, method, keep_k)."""

    model: str
    method: str
    keep_k: int
    seed: int


@dataclass(frozen=True)
class Cells:
    """Losses laid out for arithmetic over C cells.

    tokens[d] and loss[d] (summed nats) are [D, C] for the D documents of domain d. full[c] is the
    cell of the same model with all experts.
    """

    keys: tuple[Cell, ...]
    tokens: tuple[Array, ...]
    loss: tuple[Array, ...]
    full: Indices

    @property
    def documents(self) -> int:
        return sum(map(len, self.tokens))

    def find(self, model: str, method: str, keep_k: int) -> Indices:
        """Cells (one a seed) of a point; at all experts the full model, whatever the method.

        Raises ValueError if the point was not measured.
        """
        methods = (method, FULL)
        found = [
            c
            for c, key in enumerate(self.keys)
            if key.model == model and key.keep_k == keep_k and key.method in methods
        ]
        if not found:
            raise ValueError(
                f"The curves hold no {method} point of {label_of(model)} at {keep_k} experts; "
                "measure it with `python -m emo_viz curves --keep`."
            )
        return np.array(found)


def read_curves(path: Path) -> Curves:
    """Read curves.parquet and the curves.json beside it.

    Raises ValueError if either is missing, damaged, of another format version, or of another
    measurement than the other.
    """
    try:
        info, table = read_json(path.with_suffix(".json")), path.read_bytes()
        rows = pd.read_parquet(io.BytesIO(table))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"There are no readable curves at {path}; write them with `python -m emo_viz curves`."
        ) from error
    if info.get("format") != FORMAT or info.get("format_version") not in VERSIONS:
        raise ValueError(
            f"{path} is not of curve format {FORMAT_VERSION}; write it again with "
            "`python -m emo_viz curves`."
        )
    if info.get(TABLE_DIGEST, _sha256(table)) != _sha256(table):
        raise ValueError(
            f"{path} and the .json beside it are of two measurements; write the curves again with "
            "`python -m emo_viz curves`."
        )
    if missing := set(COLUMNS) - set(rows.columns):
        raise ValueError(f"{path} lacks the column {min(missing)}; write the curves again.")
    with _damaged(path):
        found = _version_1(rows, info) if info["format_version"] == 1 else Curves(rows, info)
        _check(found)
    return found


def _version_1(rows: pd.DataFrame, info: dict[str, Any]) -> Curves:
    """Both models of the pair that version 1 knew had as many experts."""
    names = ("num_experts", "num_experts_per_tok", "num_experts_per_layer")
    experts = {name: info[name] for name in names if name in info}
    by_run = {name: from_version_1(info[name]) for name in ("ranking", "greedy")}
    about = {name: value for name, value in version_1(info).items() if name not in names}
    about |= by_run | {"runs": {run: experts for run in by_run["ranking"]}}
    renamed = rows["model"].astype(str).replace(VERSION_1)
    return Curves(rows.assign(model=renamed.astype("category")), about)


def _sha256(table: bytes) -> str:
    return hashlib.sha256(table).hexdigest()


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged; write the curves again.") from error


def _check(curves: Curves) -> None:
    """Raises ValueError (KeyError, TypeError, AttributeError) unless the numbers are numbers and
    every run and domain is described."""
    rows, info = curves.rows, curves.info
    numbers = rows[["keep_k", "seed", "loss_sum", "tokens"]].to_numpy(np.float64)
    whole = np.isfinite(numbers).all() and (rows["tokens"] > 0).all()
    names = rows[["model", "domain"]].astype(str).drop_duplicates()
    described = [
        info["domains"][domain]["calibration"]
        and np.asarray(info["ranking"][model][domain]).ndim == 2
        and info["greedy"][model][domain] is not None
        and min(curves.experts(model)) > 0
        for model, domain in names.itertuples(index=False, name=None)
    ]
    _ = curves.origins
    if not (whole and all(described)):
        raise ValueError("numbers are missing, or what they are of")


def read_together(paths: Sequence[Path]) -> Curves:
    """The curves in several files, as far as they were measured on the documents of the first.

    Raises ValueError as `read_curves` does.
    """
    first, *others = map(read_curves, paths)
    for each in others:
        first = first.beside(each)
    return first


def check_name(path: Path) -> None:
    """Raises ValueError unless curves can go to `path`: the .json goes beside a .parquet."""
    if path.suffix != ".parquet":
        raise ValueError(f"{path} does not end in .parquet; name a Parquet file.")
    check_new_file(path)
    check_new_file(path.with_suffix(".json"))


def write_curves(curves: Curves, path: Path) -> None:
    """Write the table to `path` and its info beside it: both are whole before either is replaced.

    Raises ValueError if they cannot be written, or `path` is no .parquet.
    """
    check_name(path)
    with new_file(path) as table, new_file(path.with_suffix(".json")) as info:
        with table.open("wb") as file:  # opened here: pyarrow takes no name that is not UTF-8
            curves.rows.to_parquet(file, index=False, compression="zstd")
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        said = curves.info | head | {TABLE_DIGEST: _sha256(table.read_bytes())}
        info.write_text(json.dumps(said, separators=(",", ":")), encoding="utf-8")


def likelihood_kept(increase: float) -> float:
    """Share of a token's likelihood (geometric mean) that is left after an increase in nats."""
    return float(np.exp(-increase))


def layout(rows: pd.DataFrame) -> Cells:
    """Lay rows out by domain and cell.

    Raises ValueError if a cell lacks a document or a model lacks its full-model loss: points of
    one curve would then be means over different documents.
    """
    tokens, tables = [], list[pd.DataFrame]()
    plain = rows.astype({"model": str, "method": str, "domain": str, "document": str})
    for domain, group in plain.groupby("domain"):
        table = group.pivot(index="document", columns=CELL, values="loss_sum").sort_index(axis=1)
        tables.append(table)
        counted = group.pivot(index="document", columns=CELL, values="tokens").sort_index(axis=1)
        if table.isna().to_numpy().any() or not table.columns.equals(tables[0].columns):
            raise ValueError(
                f"The curves of {domain} are not measured on the same documents for every model "
                "and method; measure them again with `python -m emo_viz curves`."
            )
        tokens.append(counted.to_numpy(np.float64))
    if not tables:
        raise ValueError("The curves hold no rows; measure them with `python -m emo_viz curves`.")
    columns: list[Any] = tables[0].columns.tolist()
    keys = tuple(Cell(m, how, int(k), int(seed)) for m, how, k, seed in columns)
    loss = tuple(table.to_numpy(np.float64) for table in tables)
    return Cells(keys, tuple(tokens), loss, _full_cells(keys))


def _full_cells(keys: Sequence[Cell]) -> Indices:
    full = {key.model: c for c, key in enumerate(keys) if key.method == FULL}
    if missing := {key.model for key in keys} - set(full):
        raise ValueError(
            f"The curves of {label_of(min(missing))} lack its full-model loss; measure them again."
        )
    return np.array([full[key.model] for key in keys])


def mean_losses(cells: Cells) -> Array:
    """Loss of every cell [C] in nats a token: token-weighted in a domain, mean over domains."""
    pairs = zip(cells.loss, cells.tokens, strict=True)
    shares = [loss.sum(axis=0) / tokens.sum(axis=0) for loss, tokens in pairs]
    means: Array = np.mean(shares, axis=0)
    return means


def resampled_losses(cells: Cells, draws: int = DRAWS) -> Array:
    """`mean_losses` of `draws` bootstrap resamples of the documents: [draws, C]."""
    total = np.zeros((draws, len(cells.keys)))
    for domain, (loss, tokens) in enumerate(zip(cells.loss, cells.tokens, strict=True)):
        blocks = resample_counts(len(tokens), draws, seed=domain)
        total += np.concatenate([(n @ loss) / (n @ tokens) for n in blocks])
    return total / len(cells.tokens)


@dataclass(frozen=True)
class Measured:
    """Curves ready for many questions: laid out, averaged and resampled once.

    loss is [C] and drawn is [draws, C], both in nats a token.
    """

    cells: Cells
    loss: Array
    drawn: Array

    @classmethod
    def of(cls, rows: pd.DataFrame, draws: int = DRAWS) -> "Measured":
        """Raises ValueError as `layout` does."""
        cells = layout(rows)
        return cls(cells, mean_losses(cells), resampled_losses(cells, draws))

    @property
    def documents(self) -> int:
        return self.cells.documents

    @property
    def tokens(self) -> int:
        """Tokens of all documents, for the first run: see `tokens_of`."""
        return self.tokens_of(self.cells.keys[0].model)

    def tokens_of(self, model: str) -> int:
        """Tokens of all documents by the tokenizer of a run."""
        if model not in self._counted:
            at = self._full_cell(model)
            self._counted[model] = int(sum(tokens[:, at].sum() for tokens in self.cells.tokens))
        return self._counted[model]

    @cached_property
    def _counted(self) -> dict[str, int]:
        return {}

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per (model, method, keep_k), in this order.

        loss and increase in nats a token (mean over seeds), with _low and _high (interval over
        documents) and _min and _max (least and greatest seed: the band of random subsets), seeds,
        documents, tokens (as the run counts them).
        """
        points = dict.fromkeys(key[:3] for key in self.cells.keys)
        rows = [
            dict(zip(CELL, point, strict=False)) | self._columns(self.cells.find(*point))
            for point in points
        ]
        table = pd.DataFrame(rows).assign(documents=self.documents)
        return table.assign(tokens=[self.tokens_of(model) for model in table["model"]])

    def _columns(self, at: Indices) -> dict[str, float]:
        full = self.cells.full[at]
        views = {
            "loss": (self.loss[at], self.drawn[:, at]),
            "increase": (self.loss[at] - self.loss[full], self.drawn[:, at] - self.drawn[:, full]),
        }
        columns: dict[str, float] = {"seeds": len(at)}
        for name, (values, drawn) in views.items():
            span = self._interval(values.mean(), drawn.mean(axis=1))
            columns |= {name: span.mean, f"{name}_low": span.low, f"{name}_high": span.high}
            columns |= {f"{name}_min": float(values.min()), f"{name}_max": float(values.max())}
        return columns

    def kept(self, model: str, method: str) -> list[int]:
        """The keep-ks at which a method was measured in a run, all experts among them."""
        found = {(key.model, key.keep_k) for key in self.cells.keys if key.method in (method, FULL)}
        return sorted(keep_k for name, keep_k in found if name == model)

    def increase(self, model: str, method: str, keep_k: int) -> Interval:
        """Loss increase over the full model. Raises ValueError if it was not measured."""
        point = model, method, keep_k
        if point not in self._known:  # a page asks for each point again and again
            self._known[point] = self._interval(*self._increases(*point))
        return self._known[point]

    @cached_property
    def _known(self) -> dict[tuple[str, str, int], Interval]:
        return {}

    def full_loss(self, model: str) -> Interval:
        """Loss of a model with all its experts."""
        at = self._full_cell(model)
        return self._interval(self.loss[at], self.drawn[:, at])

    def full_difference(self, model: str, other: str) -> Interval:
        """Loss of one full model less that of another, paired by document."""
        at, less = self._full_cell(model), self._full_cell(other)
        return self._interval(
            self.loss[at] - self.loss[less], self.drawn[:, at] - self.drawn[:, less]
        )

    def ratio(self, over: tuple[str, str, int], under: tuple[str, str, int]) -> Interval:
        """Ratio of two increases, each named (model, method, keep_k).

        A resample whose lower increase is not positive counts as an infinite ratio, or as none
        (NaN) if its upper one is not positive either. There is no ratio at all where the lower
        increase is not positive and the upper one cannot be told from nothing.
        """
        (top, tops), (bottom, bottoms) = self._increases(*over), self._increases(*under)
        if bottom <= 0 and not self.increase(*over).low > 0:
            return Interval(np.nan, np.nan, np.nan, self.documents)
        beyond = np.where(tops > 0, np.inf, np.nan)
        ratios = np.divide(tops, bottoms, out=beyond, where=bottoms > 0)
        low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
        mean = top / bottom if bottom > 0 else np.inf
        return Interval(mean, float(low), float(high), self.documents)

    def _increases(self, model: str, method: str, keep_k: int) -> tuple[float, Array]:
        at = self.cells.find(model, method, keep_k)
        full = self.cells.full[at]
        mean = float((self.loss[at] - self.loss[full]).mean())
        return mean, (self.drawn[:, at] - self.drawn[:, full]).mean(axis=1)

    def _full_cell(self, model: str) -> int:
        for c, key in enumerate(self.cells.keys):
            if (key.model, key.method) == (model, FULL):
                return c
        raise ValueError(f"The curves hold no run {model}; measure it and try again.")

    def _interval(self, mean: float, samples: Array) -> Interval:
        if max(map(len, self.cells.tokens)) == 1:  # one document a domain shows no spread
            return Interval(float(mean), np.nan, np.nan, self.documents)
        return percentile_interval(float(mean), samples, self.documents)
