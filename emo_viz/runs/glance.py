"""The first look at a pair: one document, routed and cut at every notch, and written to a file."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis import ablation
from emo_viz.analysis.ablation import Guard
from emo_viz.analysis.checkpoints import Checkpoint
from emo_viz.analysis.curves import read_curves
from emo_viz.analysis.glance import (
    Glance,
    Glances,
    Text,
    notches,
    same_share,
    save_glances,
    shares,
    shortest,
    told_once,
    typical,
    whole,
)
from emo_viz.analysis.origins import Origins, documents_digest
from emo_viz.analysis.runs import run_ids
from emo_viz.analysis.widths import experts_by_layer, routed_by_layer
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.trace.documents import of_domain, read_documents
from model.files import check_new_file

if TYPE_CHECKING:
    from model.run.live import Live

OPTIONAL = ("source", "licence", "parent", "part", "cut_tokens")


def make(
    models: Sequence[Path],
    documents_path: Path,
    calibration_path: Path,
    out: Path,
    curves: Path | None = None,
    domain: str = "",
    document: str = "",
    report: Report = unreported,
) -> Glances:
    """Write the first look at one model, or at two, to the .npz file `out`.

    document: the id of the one to show, else the most typical of the curves in the domain (see
    `choose`). Raises ValueError for a document, a domain or files that are not there.
    """
    from model.run.live import open_live

    check_new_file(out)
    documents = read_documents(documents_path, ("id", "domain"), OPTIONAL)
    calibration = read_documents(calibration_path, ("id", "domain"))
    rows = read_curves(curves).rows if curves else None
    chosen = document or choose(of_domain(documents, domain, documents_path), rows)
    row = _row(documents, chosen, documents_path)
    step, found, checkpoints = Counter(report, len(models)), dict[str, Glance](), list[Checkpoint]()
    keeps: tuple[int, ...] = ()
    for run, folder in zip(run_ids(models), models, strict=True):
        live = open_live(folder)
        checkpoints.append(Checkpoint.of(run, folder, live))
        keeps = keeps or usual_notches(live)
        texts = calibration_texts(live, calibration, str(row["domain"]))
        found[run] = read(live, str(row["text"]), texts, keeps)
        step()
    origins = Origins(
        {one.run: one.weights for one in checkpoints},
        documents_digest(documents),
        documents_digest(calibration),
    )
    made = Glances(text_of(row), found, origins)
    save_glances(out, made)
    return made


def choose(documents: pd.DataFrame, rows: pd.DataFrame | None) -> str:
    """The id of the document to show: of the whole ones that repeat their words least the most
    typical of the curves' rows, or the shortest where there are none."""
    own = told_once(whole(documents))
    found = None if rows is None else typical(rows, own)
    if found is not None:
        return found
    return str(own["id"].iloc[shortest([len(text) // 4 for text in own["text"]])])


def _row(documents: pd.DataFrame, chosen: str, path: Path) -> pd.Series:
    own = documents[documents["id"].astype(str) == chosen]
    if own.empty:
        first = ", ".join(documents["id"].astype(str).head(3))
        raise ValueError(
            f"{path} has no document with the id {chosen!r}; its first ids are {first}."
        )
    return own.iloc[0]


def text_of(row: pd.Series) -> Text:
    """What is said of a document of the table."""

    def said(name: str) -> str:
        value = row.get(name)
        return "" if value is None or pd.isna(value) else str(value)

    rest = row.get("cut_tokens", 0)
    return Text(
        id=str(row["id"]),
        domain=str(row["domain"]),
        title=said("parent") or str(row["id"]),
        source=said("source"),
        licence=said("licence"),
        rest=0 if pd.isna(rest) else int(rest),
    )


def usual_notches(live: "Live") -> tuple[int, ...]:
    """The notches of the run that the slider counts in: the first one."""
    experts = experts_by_layer(live.geometry)
    return notches(int(live.geometry.num_experts_per_tok), max(experts))


def calibration_texts(
    live: "Live", calibration: pd.DataFrame, domain: str, without: str = ""
) -> list[NDArray[np.int64]]:
    """At most 16 documents of a domain as token ids, in their order, but for that of one id."""
    most = live.most_tokens(ablation.MAX_TOKENS)
    own = calibration[calibration["domain"].astype(str) == domain]
    texts = own.loc[own["id"].astype(str) != without, "text"].head(ablation.MAX_CALIBRATION)
    return [live.encode(text, most).token_ids for text in texts]


def read(
    live: "Live",
    text: str,
    calibration: Sequence[NDArray[np.int64]],
    keeps: Sequence[int],
    guard: Guard = nullcontext,
) -> Glance:
    """What a model makes of a text, whole and at every notch.

    calibration: what the experts are ranked on; on the text itself where there is nothing else.
    keeps: of the run that the slider counts in. guard() is held around every question to the model.
    Raises ValueError for a text without tokens.
    """
    geometry = live.geometry
    encoded = live.encode(text, live.most_tokens(ablation.MAX_TOKENS))
    with guard():
        recording = live.record(encoded.token_ids)
        scores = _scores(live, list(calibration) or [encoded.token_ids])
    experts = experts_by_layer(geometry)
    own = same_share(keeps, int(geometry.num_experts_per_tok), max(experts))
    ids = np.asarray(recording.expert_ids[:, 1:], np.int64)
    ranking = ablation.ranked(scores, geometry)
    return Glance(
        pieces=tuple(encoded.texts[1:]),
        layers=tuple(live.own_layers),
        routed=routed_by_layer(geometry),
        shared=int(geometry.num_shared_experts),
        per_token=int(geometry.num_experts_per_tok),
        ranked_on=len(calibration),
        keeps=own,
        expert_ids=ids,
        weights=shares(recording.gate_weights[:, 1:], ids),
        ranking=ranking,
        losses=_losses(live, encoded.token_ids, ranking, own, guard),
    )


def _scores(live: "Live", texts: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """By router probability, or where that is not known by how often each expert was chosen."""
    if live.knows_probabilities:
        return live.scores(texts)
    counts = np.zeros((len(live.own_layers), max(live.geometry.experts)))
    for text in texts:
        for layer, ids in enumerate(live.record(text).expert_ids[:, 1:]):
            chosen = ids[ids >= 0]
            counts[layer] += np.bincount(chosen, minlength=counts.shape[1])
    return counts


def _losses(
    live: "Live",
    token_ids: NDArray[np.int64],
    ranking: NDArray[np.int64],
    keeps: Sequence[int],
    guard: Guard,
) -> NDArray[np.float32] | None:
    if live.why_not_cut:
        return None
    found: dict[int, NDArray[np.float32]] = {}
    for keep_k in dict.fromkeys(keeps):
        how = (live.geometry, (), live.groups_at(keep_k))
        subset = ablation.ranked_subset(ranking, keep_k, *how)
        with guard():
            found[keep_k] = live.losses(token_ids, subset.experts)[1:]
    return np.stack([found[keep_k] for keep_k in keeps]).astype(np.float32)
