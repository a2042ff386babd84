"""Fine-tuning of the bundled pair, in parts and apart: python -m benchmarks.finetuning --out FOLDER

Runs every (domain, model, part) as `python -m model.finetune` does and then the federations, skips
what is done and goes on after a kill; `--table` writes what there is as docs/finetuning.md has it.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from model.cli import Several, SeveralCommand, say
from model.evaluate.intervals import domain_means, span
from model.federated.compose import Overlap
from model.federated.run import CLIENTS, Federation, federate
from model.files import read_json, write_text
from model.finetune.parts import read_what
from model.finetune.run import EXPORT, RESULT, Pace, Request, work
from model.train.loop import Silent

ROOT = Path(__file__).parents[1]
MODELS = {"EMO": "emo-nano", "Standard": "std-nano"}
WHATS = ("all", "experts", "module 16", "subset 16", "lora", "router", "preferred 16", "new 8")
MAIN = WHATS[:6]
DOMAINS = ("recipes", "chess", "code_python", "medicine")
ALONE = "tuned/module"
OVERLAPS = ("average", "disjoint")


@click.command(cls=SeveralCommand)
@click.option("--corpus", type=click.Path(path_type=Path), default=Path("data/corpus"))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--domains", cls=Several, default=DOMAINS)
@click.option("--what", "whats", cls=Several, default=MAIN, help="In quotes: 'module 16'.")
@click.option("--steps", default=300, show_default=True)
@click.option("--rows", default=8, show_default=True)
@click.option("--measured", "own", default=48, show_default=True)
@click.option("--others", default=4, show_default=True)
@click.option("--federations", "overlaps", cls=Several, default=OVERLAPS, help="Or none.")
@click.option(
    "--table", "to", type=click.Path(path_type=Path), default=None, help="And run nothing."
)
def main(
    corpus: Path,
    out: Path,
    domains: tuple[str, ...],
    whats: tuple[str, ...],
    overlaps: tuple[Overlap, ...],
    to: Path | None,
    **sizes: int,
) -> None:
    """Run what is missing, or write the tables of what is there."""
    if to is not None:
        write_text(to, tables(out))
        return
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    for domain in domains:
        for what in whats:
            for name, checkpoint in MODELS.items():
                request = Request(_parent(checkpoint), corpus, (domain,), read_what(what), **sizes)
                _one(request, out, name, what, domain)
    for name, checkpoint in MODELS.items() if "none" not in overlaps else ():
        request = Request(_parent(checkpoint), corpus, domains, read_what("module 16"), **sizes)
        _federations(request, overlaps, out / name)


def _parent(checkpoint: str) -> Path:
    return ROOT / "assets" / "checkpoints" / checkpoint


def _folder(out: Path, name: str, what: str, domain: str) -> Path:
    """A module's run is also a client's."""
    return out / name / (CLIENTS if what == "module 16" else what.replace(" ", "-")) / domain


def _one(request: Request, out: Path, name: str, what: str, domain: str) -> None:
    full = _folder(out, name, "all", domain) / RESULT
    folder = _folder(out, name, what, domain)
    result = work(request, folder, full=full if full.is_file() else None, pace=_pace())
    if what != "module 16":  # its weights go into the federation
        shutil.rmtree(folder / EXPORT, ignore_errors=True)
    gain = (result or {}).get("summary", {}).get("own", {}).get("all", {}).get("gain")
    say(f"{name} {what} {domain}: {gain}")


def _pace() -> Pace:
    return Pace(checkpoint_every=100, progress=Silent)


def _federations(request: Request, overlaps: Sequence[Overlap], folder: Path) -> None:
    key = "+".join(request.domains)
    for overlap in overlaps:
        out = folder / f"federation-{overlap}-{key}"
        if (out / RESULT).is_file():
            continue
        # Clients that choose for themselves have been trained already.
        clients = folder / CLIENTS if overlap == "average" else None
        result = federate(Federation(request, overlap), out, _pace(), clients)
        say(f"{folder.name} {overlap}: {result['summary']['gain']}")


# Tables


def tables(out: Path) -> str:
    """What the results in a folder say, as Markdown. Raises ValueError if there are none."""
    results = {
        (name, what): found
        for name in MODELS
        for what in WHATS
        if (found := [read_json(p) for p in _results(out, name, what)])
    }
    if not results:
        raise ValueError(f"{out} holds no results yet; run this without --table first.")
    parts = [_of_parts(results), _by_domain(results), *_of_federations(out)]
    return "\n\n".join(parts) + "\n"


def _results(out: Path, name: str, what: str) -> Iterator[Path]:
    yield from sorted(_folder(out, name, what, "x").parent.glob(f"*/{RESULT}"))


def _of_parts(results: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    head = (
        "| Model | What trains | Share of parameters | Domains | Gain | Its module alone: gain "
        "| Other domains: gain | Share of the full gain |\n| --- | --- " + "| --: " * 6 + "|"
    )
    return "\n".join([head, *(_row(name, what, results) for name, what in results)])


def _row(name: str, what: str, results: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    found = results[name, what]
    full = {each["domains"][0]: each for each in results.get((name, "all"), [])}
    held = [each for each in found if each["domains"][0] in full]
    gain = _mean(found, "own", "parent", "tuned")
    alone = _mean(found, "own", "parent", ALONE) if ALONE in found[0]["losses"]["own"] else ""
    cells = [
        *(name, what, f"{found[0]['parameters']['share']:.1%}", str(len(found)), gain, alone),
        _mean(found, "others", "parent", "tuned"),
        _kept(held, [full[each["domains"][0]] for each in held]),
    ]
    return f"| {' | '.join(cells)} |"


def _columns(
    found: Sequence[dict[str, Any]], group: str, *names: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses [D, names], tokens [D] and domains [D] of several runs' documents, joined."""
    losses = [np.stack([each["losses"][group][n] for n in names], 1) for each in found]
    tokens = [np.array(each["documents"][group]["tokens"], np.float64) for each in found]
    places = [np.full(len(t), i, np.int64) for i, t in enumerate(tokens)]
    return np.concatenate(losses), np.concatenate(tokens), np.concatenate(places)


def _mean(found: Sequence[dict[str, Any]], group: str, before: str, after: str) -> str:
    losses, tokens, places = _columns(found, group, before, after)
    mean, drawn = domain_means(losses[:, :1] - losses[:, 1:], tokens, places)
    return _told(span(float(mean[0]), drawn[:, 0]))


def _kept(found: Sequence[dict[str, Any]], full: Sequence[dict[str, Any]]) -> str:
    """The share of the full fine-tuning's mean gain; a module's as it is used, alone."""
    if not found:
        return ""
    after = ALONE if ALONE in found[0]["losses"]["own"] else "tuned"
    own, tokens, places = _columns(found, "own", "parent", after)
    whole, *_ = _columns(full, "own", "parent", "tuned")
    gains = np.stack([own[:, 0] - own[:, 1], whole[:, 0] - whole[:, 1]], 1)
    mean, drawn = domain_means(gains, tokens, places)
    if mean[1] <= 0:
        return "none to share"
    return _told(span(float(mean[0] / mean[1]), drawn[:, 0] / drawn[:, 1]), "{:.0%}")


def _by_domain(results: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    names = sorted({e["domains"][0] for found in results.values() for e in found})
    head = f"| Model | What trains | {' | '.join(names)} |\n| --- | --- " + "| --: " * len(names)
    lines = []
    for (name, what), found in results.items():
        gains = {e["domains"][0]: e["summary"]["own"]["all"] for e in found}
        for key in ("gain", "gain/module"):
            if any(key in each for each in gains.values()):
                alone = ", alone" if key.endswith("module") else ""
                cells = [_told(gains[d][key]) if d in gains else "" for d in names]
                lines.append(f"| {name} | {what}{alone} | {' | '.join(cells)} |")
    return "Gain by domain:\n\n" + "\n".join([head + "|", *lines])


def _of_federations(out: Path) -> Iterator[str]:
    found = [read_json(path) for path in sorted(out.glob(f"*/federation-*/{RESULT}"))]
    if not found:
        return
    measures = tuple(
        f"{who}{how}" for how in ("/module", "") for who in ("client", "composed", "joint")
    )
    measures = ("parent/module", *measures)
    yield f"Federations: gain over the parent on the clients' domains, of {', '.join(measures)}:"
    head = f"| Model | Overlap | Domain | {' | '.join(measures)} |\n| --- | --- | --- "
    lines = [head + "| --: " * len(measures) + "|"]
    for each in found:
        name = {v: k for k, v in MODELS.items()}[Path(each["parent"]["folder"]).name]
        rows = {**each["by_domain"], "mean": each["summary"]}
        rows |= {"all others": each["others"]["summary"]} if each["others"] else {}
        for domain, spans in rows.items():
            gains = spans["gain"]
            cells = [_told(gains[measure]) if measure in gains else "" for measure in measures]
            lines.append(f"| {name} | {each['overlap']} | {domain} | {' | '.join(cells)} |")
    yield "\n".join(lines)


def _told(found: Sequence[float], form: str = "{:.3f}") -> str:
    mean, low, high = (form.format(value) for value in found)
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main()
