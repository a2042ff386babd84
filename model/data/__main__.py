"""Command line of the corpus: python -m model.data build --help"""

from pathlib import Path

import click

from model.cli import INTERRUPTED, Command, say
from model.data.build import Inputs, build_corpus
from model.data.own import next_command
from model.data.repetition import MAX_COUNT, MAX_PERIOD
from model.data.tokenizer import MAX_VOCAB_SIZE, MIN_VOCAB_SIZE
from model.data.write import Settings

FOLDER = click.Path(path_type=Path)


@click.group()
def main() -> None:
    """Make the corpus that the models learn from."""


@main.command(cls=Command)
@click.option(
    "--documents",
    help="Your own data: a .jsonl, .jsonl.gz or .parquet file with the "
    "field text (and domain, id, parent, licence, source, rights), a folder of such or text files "
    "with a sub-folder for each domain, a saved Hugging Face dataset, or hf:NAME[:SPLIT].",
)
@click.option(
    "--out",
    type=FOLDER,
    default=Path("data/corpus"),
    show_default=True,
    help="Folder of the corpus; a corpus that is already there is replaced.",
)
@click.option(
    "--downloads",
    type=FOLDER,
    default=Path("data/downloads"),
    show_default=True,
    help="Packages are fetched to here unless they are here.",
)
@click.option("--domains", default="", help="Only these domains: a,b,c.")
@click.option(
    "--max-bytes-per-domain",
    type=click.IntRange(min=1),
    default=4_000_000,
    show_default=True,
    help="Of text; the documents that come after are left out.",
)
@click.option(
    "--vocab-size",
    type=click.IntRange(MIN_VOCAB_SIZE, MAX_VOCAB_SIZE),
    help="Tokens to learn; ids take two bytes up to 65,536 of them, four above.  [default: 4096; "
    "of --documents fewer if they are few]",
)
@click.option("--tokenizer", type=FOLDER, help="A saved tokenizer to use; none is trained then.")
@click.option(
    "--heldout-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the text that no model is trained on.  [default: 0.1; of --documents up to 0.3 "
    "if they are few]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the documents' order.")
@click.option(
    "--no-repetition",
    is_flag=True,
    help=f"Leave out of training what repeats 1 to {MAX_PERIOD} tokens more than {MAX_COUNT} times "
    "in a row, as EMO's training did.",
)
@click.option(
    "--apart",
    type=click.FloatRange(0, 1, min_open=True),
    help="Leave out of training what is as alike as this, or more, to a held-out document: the "
    "share of their 5-token sequences that both have (0.7 is almost the same). Found by "
    "MinHash, so by chance: estimated to some 0.04, and a few just as alike as asked stay.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that make the tokens; the corpus is the same with any number.",
)
def build(
    documents: str | None,
    out: Path,
    downloads: Path,
    domains: str,
    max_bytes_per_domain: int,
    vocab_size: int | None,
    tokenizer: Path | None,
    heldout_fraction: float | None,
    seed: int,
    no_repetition: bool,
    apart: float | None,
    workers: int,
) -> None:
    """Build a corpus of documents with a domain, from open packages or from your own data.

    If it is stopped, the same command goes on where it was. Texts, tokens and all that is known of
    documents go through the disk; in memory stay 8 bytes a document. A text takes at most 64 MiB.
    """
    settings = Settings(max_bytes_per_domain, heldout_fraction or 0.0, seed, no_repetition, apart)
    wanted = [name.strip() for name in domains.split(",") if name.strip()]
    inputs = Inputs(documents, downloads, wanted, vocab_size or 0, tokenizer)
    try:
        manifest, lost = build_corpus(inputs, settings, out, workers, say)
    except KeyboardInterrupt:
        say(f"Stopped; the same command goes on with {out}.", err=True)
        raise SystemExit(INTERRUPTED) from None
    say(
        f"{out}: {manifest['documents']:,} documents of {_domains(len(manifest['domains']))}, "
        f"{manifest['splits']['train']['tokens']:,} tokens to train on and "
        f"{manifest['splits']['heldout']['tokens']:,} held out, "
        f"{manifest['tokenizer']['vocab_size']:,} different ones."
    )
    if lost:
        say(f"Left out: {lost}.")
    if documents is not None:
        say(f"Next: {next_command(out)}")


def _domains(number: int) -> str:
    return f"{number} domain{'s' * (number != 1)}"


if __name__ == "__main__":
    main(prog_name="python -m model.data")
