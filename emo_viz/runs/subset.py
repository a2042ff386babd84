"""A subset of one model's experts, chosen on calibration documents and written to a file."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from emo_viz.trace.documents import of_domain, read_documents, texts_digest
from emo_viz.trace.recorder import check_max_tokens
from model.files import check_new_file, read_text, weights_digest, write_text

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset, Method


def choose_subset(
    checkpoint: Path,
    documents_path: Path,
    out: Path,
    keep_k: int,
    method: "Method",
    max_tokens: int,
    domain: str | None = None,
    per_group: bool = False,
) -> "ExpertSubset":
    """Write the `keep_k` experts a layer that a domain's documents prefer to the JSON file `out`.

    domain: None for all documents. max_tokens: of each, its opening token counted. per_group:
    equally many of each group of a model that has groups. The model may be of any family whose
    experts can be left out. Raises ValueError for what cannot be read, kept or written, and for an
    `out` that is something else than a subset.
    """
    from model.run.live import open_live
    from model.run.subset import check_keep_k

    _check_out(out)
    documents = read_documents(documents_path, required=("domain",) if domain else ())
    documents = of_domain(documents, domain, documents_path)
    _check_sizes(checkpoint, keep_k, max_tokens)
    live = open_live(checkpoint)
    if live.why_not_cut:
        raise ValueError(live.why_not_cut)
    check_max_tokens(live.model, max_tokens)
    groups = live.groups if per_group else 1
    check_keep_k(live.geometry, keep_k, groups)
    texts = [live.encode(text, max_tokens).token_ids for text in documents["text"]]
    subset = replace(
        live.select(texts, keep_k, method, documents["id"].tolist(), groups),
        model=checkpoint.resolve().name,
        weights_sha256=weights_digest(checkpoint),
        domain=domain,
        documents_sha256=texts_digest(documents["text"]),
    )
    write_text(out, subset.to_json() + "\n")
    return subset


def _check_sizes(checkpoint: Path, keep_k: int, max_tokens: int) -> None:
    """Raises ValueError, before a model is loaded, for what its config says cannot be."""
    from model.run.checkpoint import is_of_other_family, read_config
    from model.run.opening import check_length
    from model.run.subset import check_keep_k

    if is_of_other_family(checkpoint):  # which say it in many ways
        return
    config = read_config(checkpoint)
    if config.objective != "dense":
        check_keep_k(config, keep_k)
        check_length(config.to_dict(), max_tokens)


def _check_out(out: Path) -> None:
    """Raises ValueError unless a subset can be written there; only another subset is replaced."""
    from model.run.subset import ExpertSubset

    check_new_file(out)
    if out.exists():
        try:
            ExpertSubset.from_json(read_text(out))
        except ValueError as error:
            raise ValueError(
                f"{out} exists and is not a subset; name another file for it."
            ) from error
