"""Evaluate a checkpoint: python -m model.evaluate --model FOLDER --corpus FOLDER --out FILE

Writes JSON: held-out losses, keep-k curves and modularity with 95 % intervals over documents, for
all documents and for those of which less than 1 % was seen in training, and every document's
losses. The model is of any family; of another than EMO's, give texts by --documents.
"""

from pathlib import Path
from typing import Any

import click
import torch

from model.cli import Command, device_option, say, whole_numbers
from model.data.heldout import HeldOut
from model.data.shards import corpus_digest
from model.evaluate import choices
from model.evaluate.measure import evaluate
from model.evaluate.subject import Subject, open_subject
from model.evaluate.texts import of_corpus, of_files
from model.families.opening import DTYPES
from model.files import check_new_file, weights_digest, write_json
from model.train.parallel import own_device

FOLDER = click.Path(path_type=Path)


@click.command(cls=Command)
@click.option("--model", "checkpoint", type=FOLDER, required=True, help="Checkpoint folder.")
@click.option("--corpus", type=FOLDER, help="A corpus that model.data has built.")
@click.option(
    "--documents",
    help="Texts instead of a corpus: Parquet or JSONL with domain and text, or a folder of text "
    "files with a sub-folder a domain.",
)
@click.option("--calibration", help="With --documents: other texts, which choose the experts.")
@click.option("--out", type=FOLDER, required=True, help="The JSON file to write.")
@device_option
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default=DTYPES[0],
    show_default=True,
    help="What the weights are loaded as.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads."
)
@click.option(
    "--per-domain",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Documents evaluated, and as many that choose the experts; a packed corpus has its own.",
)
@click.option(
    "--keep",
    callback=whole_numbers,
    help="Experts kept a layer, such as 8,16,32, shared ones counted.  [default: 8,16,32,64 of "
    "EMO, a sixteenth to a half of other models' experts]",
)
@click.option(
    "--continuations", is_flag=True, help="Multiple choice: which passage is a document's own?"
)
@click.option(
    "--choices",
    "questions",
    type=FOLDER,
    help='Multiple choice: JSONL of {"question", "choices", "answer" (from 0), "domain"}.',
)
def main(
    checkpoint: Path,
    corpus: Path | None,
    documents: str | None,
    calibration: str | None,
    out: Path,
    device: str,
    dtype: str,
    threads: int,
    per_domain: int,
    keep: list[int] | None,
    continuations: bool,
    questions: Path | None,
) -> None:
    """Measure a model on held-out documents."""
    check_new_file(out)
    _check_given(corpus, documents, calibration)
    torch.set_num_threads(threads)
    subject = open_subject(checkpoint, own_device(device), dtype)
    texts, origin = _texts(corpus, documents, calibration, subject, per_domain)
    sets = _sets(texts, continuations, questions, subject)
    found = evaluate(subject, texts, keep=keep, questions=sets)
    found["model"]["weights_sha256"] = weights_digest(checkpoint)
    write_json(out, found | origin, indent=None)
    _say(out, found | origin)


def _check_given(corpus: Path | None, documents: str | None, calibration: str | None) -> None:
    if (corpus is None) == (documents is None) or (documents is None) != (calibration is None):
        raise ValueError("Give either --corpus, or --documents and --calibration.")


def _texts(
    corpus: Path | None,
    documents: str | None,
    calibration: str | None,
    subject: Subject,
    per_domain: int,
) -> tuple[list[HeldOut], dict[str, Any]]:
    """The documents, and what the file says of where they come from."""
    if corpus is not None:
        return of_corpus(corpus, subject, per_domain), {"corpus": corpus_digest(corpus)}
    texts, digest, left_out = of_files(str(documents), str(calibration), subject, per_domain)
    return texts, {"texts_sha256": digest} | ({"domains_left_out": left_out} if left_out else {})


def _sets(
    texts: list[HeldOut], continuations: bool, questions: Path | None, subject: Subject
) -> dict[str, list[choices.Question]]:
    sets = {}
    if continuations:
        sets[choices.OWN] = choices.continuations(texts)
        if not sets[choices.OWN]:
            raise ValueError(
                f"No domain has {choices.CHOICES} documents of "
                f"{choices.CONTEXT + choices.CONTINUATION} tokens, which --continuations needs."
            )
    if questions is not None:
        sets[questions.name] = choices.read_questions(questions, subject)
    return sets


def _say(out: Path, found: dict[str, Any]) -> None:
    whole = found["summary"]["all"]
    say(
        f"{out}: {whole['full'][0]:.3f} nats a token on {whole['documents']:,} documents, "
        f"{whole['tokens']:,} tokens."
    )
    for name, answers in found.get("choices", {}).items():
        mean, low, high = answers["full"]
        say(
            f"{name}: {100 * mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of "
            f"{answers['questions']:,} questions right, chance {100 * answers['chance']:.1f} %."
        )
    if left_out := found.get("domains_left_out"):
        names = ", ".join(left_out if len(left_out) < 4 else [*left_out[:3], ".."])
        say(
            "Domains left out, which only one of --documents and --calibration has: "
            f"{names} ({len(left_out)} in all)."
        )
    for what, why in found["model"].get("absent", {}).items():
        say(f"Not measured: {what} ({why}).")


if __name__ == "__main__":
    main()
