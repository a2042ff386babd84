"""A federation: clients fine-tune their modules apart, their experts are put together, and the
result is held against the parent and against joint training, on every client's domain.

A federation is a folder: clients/DOMAIN and joint are fine-tunings (`model.finetune`), export/ is
the composition, result.json, written last, says that all is done. A killed one goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.emo.modeling import EmoForCausalLM
from model.evaluate.intervals import domain_means, span
from model.federated.compose import Overlap, compose, disjoint_modules, overlaps, union
from model.files import check_writable, new_folder, read_json, write_json
from model.finetune.gains import rounded
from model.finetune.parts import What, check_what
from model.finetune.run import (
    EXPORT,
    REQUEST,
    RESULT,
    Pace,
    Parent,
    Request,
    check_same,
    document_losses,
    identity,
    round_weights,
    work,
)
from model.finetune.texts import Measured, Texts
from model.run.loading import export_model, load_model
from model.run.selection import expert_scores
from model.run.subset import ExpertSubset, apply_subset, subset_from_scores
from model.train import parallel

FORMAT, FORMAT_VERSION = "emo-viz-federation", 1
CLIENTS, JOINT = "clients", "joint"
PARENT, CLIENT, COMPOSED, MODULE = "parent", "client", "composed", "/module"


@dataclass(frozen=True)
class Federation:
    """What is asked: each client trains `request.what`'s module on one of `request.domains`.

    overlap: whether an expert may be of several clients, who are then averaged by usage.
    """

    request: Request
    overlap: Overlap = "average"

    def of_client(self, domain: str) -> Request:
        """The fine-tuning of one client."""
        return replace(self.request, domains=(domain,))

    def of_joint(self, experts: int) -> Request:
        """As many steps in all, of every client's documents together, on the union of modules."""
        steps = self.request.steps * len(self.request.domains)
        return replace(self.request, steps=steps, what=What("module", experts))


def federate(
    plan: Federation, out: Path, pace: Pace | None = None, clients_in: Path | None = None
) -> dict[str, Any]:
    """Train the clients and the joint model, compose, measure; returns what result.json holds.

    Goes on where an earlier try stopped; what is done is not done again. clients_in: where the
    clients' runs lie or will, if not in `out`. Raises ValueError for fewer than two domains, for
    what `model.finetune` refuses, and for a folder of another federation.
    """
    request, domains = plan.request, plan.request.domains
    if len(set(domains)) != len(domains) or len(domains) < 2:
        raise ValueError("A federation needs two domains or more, each once.")
    parent = Parent.open(request.parent, request.corpus)
    check_what(parent.model.config, request.what)
    asked = identity(request, parent, None) | {"overlap": plan.overlap}
    check_same(out, asked, "federation")
    if (out / RESULT).is_file():
        return read_result(out / RESULT)
    context = request.context or parent.context
    texts = [_texts(request, (domain,), context) for domain in domains]
    usage_CLR = np.stack([expert_scores(parent.model, [*each.calibration]) for each in texts])
    modules = _modules(plan, parent.model, usage_CLR, texts)
    check_writable(out / EXPORT)
    write_json(out / REQUEST, asked)
    clients = _train_clients(plan, clients_in or out / CLIENTS, modules, pace)
    together = union(parent.model.config, modules)
    joint = _train_joint(plan, out, together, pace)
    composed = compose(parent.model, clients, modules, usage_CLR)
    round_weights(composed)
    losses = _measure(parent.model, clients, composed, joint, modules, texts)
    others = _texts(request, domains, context).others
    result = _result(plan, parent, asked, modules, [each.own for each in texts], losses)
    models = {PARENT: parent.model, COMPOSED: composed, JOINT: joint}
    result["others"] = elsewhere(models, others)
    with new_folder(out / EXPORT) as folder:
        export_model(composed, parent.tokenizer, folder)
        write_json(folder / "federation.json", asked)
    write_json(out / RESULT, result)
    return result


def _texts(request: Request, domains: tuple[str, ...], context: int) -> Texts:
    return Texts.read(
        request.corpus,
        domains,
        context,
        calibration=request.calibration,
        own=request.own,
        others=request.others,
    )


def _modules(
    plan: Federation,
    model: EmoForCausalLM,
    usage_CLR: NDArray[np.float64],
    texts: Sequence[Texts],
) -> list[ExpertSubset]:
    keep_k = plan.request.what.number
    if plan.overlap == "disjoint":
        return disjoint_modules(model.config, usage_CLR, keep_k)
    method = "router_probability"
    return [
        subset_from_scores(scores_LR, keep_k, model.config, method, each.calibration_ids)
        for scores_LR, each in zip(usage_CLR, texts, strict=True)
    ]


def _train_clients(
    plan: Federation, out: Path, modules: Sequence[ExpertSubset], pace: Pace | None
) -> list[EmoForCausalLM]:
    models = []
    for domain, module in zip(plan.request.domains, modules, strict=True):
        folder = out / domain
        parallel.tell(f"The client of {domain}:")
        # A client that chooses for itself chooses the same, and then its run is any module's run.
        given = module if plan.overlap == "disjoint" else None
        work(plan.of_client(domain), folder, module=given, pace=pace)
        models.append(load_model(folder / EXPORT))
    return models


def _train_joint(
    plan: Federation, out: Path, module: ExpertSubset, pace: Pace | None
) -> EmoForCausalLM:
    parallel.tell("Joint training:")
    work(plan.of_joint(module.budget), out / JOINT, module=module, pace=pace)
    return load_model(out / JOINT / EXPORT)


def _measure(
    parent: EmoForCausalLM,
    clients: Sequence[EmoForCausalLM],
    composed: EmoForCausalLM,
    joint: EmoForCausalLM,
    modules: Sequence[ExpertSubset],
    texts: Sequence[Texts],
) -> list[dict[str, NDArray[np.float64]]]:
    """Losses by model, of every client's held-out documents; with /module by its module alone."""
    found = []
    for client, module, each in zip(clients, modules, texts, strict=True):
        models = {PARENT: parent, CLIENT: client, COMPOSED: composed, JOINT: joint}
        losses = {name: document_losses(model, each.own) for name, model in models.items()}
        for name in models:
            with apply_subset(models[name], module):
                losses[name + MODULE] = document_losses(models[name], each.own)
        found.append(losses)
    return found


def elsewhere(models: dict[str, EmoForCausalLM], others: Measured) -> dict[str, Any] | None:
    """What is forgotten of the domains that no client has; None if there are none."""
    if not others.ids:
        return None
    losses = {name: document_losses(model, others) for name, model in models.items()}
    return {
        "domains": len(set(others.domains)),
        "documents": len(others.ids),
        "tokens": int(others.counts.sum()),
        "summary": _spans(losses, [others], apart=False),
    }


def _result(
    plan: Federation,
    parent: Parent,
    asked: dict[str, Any],
    modules: Sequence[ExpertSubset],
    measured: Sequence[Measured],
    losses: Sequence[dict[str, NDArray[np.float64]]],
) -> dict[str, Any]:
    domains, request = plan.request.domains, plan.request
    joined = {name: np.concatenate([each[name] for each in losses]) for name in losses[0]}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "domains": list(domains),
        "overlap": plan.overlap,
        "parent": {
            "folder": str(parent.folder),
            "weights_sha256": parent.digest,
            "objective": parent.objective,
        },
        "request": asked,
        "tokens_a_client": request.steps * request.rows * (request.context or parent.context),
        "modules": {domain: m.experts for domain, m in zip(domains, modules, strict=True)},
        "overlaps": overlaps(modules, parent.model.config.num_shared_experts),
        "summary": _spans(joined, measured),
        "by_domain": {
            domain: _spans(found, [each]) | {"documents": len(each.ids)}
            for domain, found, each in zip(domains, losses, measured, strict=True)
        },
        "documents": {d: each.to_json() for d, each in zip(domains, measured, strict=True)},
        "losses": {d: rounded(found) for d, found in zip(domains, losses, strict=True)},
    }


def _spans(
    losses: dict[str, NDArray[np.float64]], measured: Sequence[Measured], apart: bool = True
) -> dict[str, dict[str, list[float]]]:
    """Losses and gains over the parent, the mean over domains, with intervals over documents.

    apart: as in `model.finetune.gains.summary`.
    """
    tokens_D = np.concatenate([each.counts for each in measured])
    names = [name for each in measured for name in each.domains]
    known = sorted(set(names))
    places_D = np.array([known.index(name) for name in names], np.int64) * apart
    gains = {name: losses[PARENT] - loss for name, loss in losses.items() if name != PARENT}
    found = {}
    for kind, columns in (("loss", losses), ("gain", gains)):
        means, drawn = domain_means(np.stack(list(columns.values()), 1), tokens_D, places_D)
        found[kind] = {name: span(float(means[i]), drawn[:, i]) for i, name in enumerate(columns)}
    return found


def read_result(path: Path) -> dict[str, Any]:
    """A federation's result. Raises ValueError if the file is none."""
    result = read_json(path)
    if (result.get("format"), result.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"{path} is no result of a federation; run python -m model.federated.")
    return result
