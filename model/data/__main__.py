"""Command line of the corpus: python -m model.data build --help"""

from pathlib import Path

import click

from model.cli import Command
from model.data.build import Settings, check_documents, check_out, write_corpus
from model.data.collect import collect_own, collect_sources
from model.data.documents import REASONS
from model.data.own import (
    LARGEST_VOCABULARY,
    LEAST_HELD_OUT,
    next_command,
    vocabulary_for,
)
from model.data.own import (
    heldout_fraction as fitting_fraction,
)
from model.data.tokenizer import MIN_VOCAB_SIZE, load_tokenizer, train_tokenizer

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
@click.option("--out", type=FOLDER, default=Path("data/corpus"), show_default=True)
@click.option(
    "--downloads",
    type=FOLDER,
    default=Path("data/downloads"),
    show_default=True,
    help="Packages are fetched to here unless they are here.",
)
@click.option("--domains", default="", help="Only these domains: a,b,c.")
@click.option(
    "--max-bytes-per-domain", type=click.IntRange(min=1), default=4_000_000, show_default=True
)
@click.option(
    "--vocab-size",
    type=click.IntRange(MIN_VOCAB_SIZE, 2**16),
    help="Tokens to learn.  [default: 4096; of --documents fewer if they are few]",
)
@click.option("--tokenizer", type=FOLDER, help="A saved tokenizer to use; none is trained then.")
@click.option(
    "--heldout-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the text that no model is trained on.  [default: 0.1; of --documents up to 0.3 "
    "if they are few]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the documents' order.")
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
) -> None:
    """Build a corpus of documents with a domain, from open packages or from your own data."""
    wanted = [name.strip() for name in domains.split(",") if name.strip()]
    limits = (max_bytes_per_domain, heldout_fraction, seed)
    _build(documents, out, downloads, wanted, vocab_size, tokenizer, limits)


def _build(
    own: str | None,
    out: Path,
    downloads: Path,
    domains: list[str],
    vocab_size: int | None,
    tokenizer_folder: Path | None,
    limits: tuple[int, float | None, int],
) -> None:
    local = own is not None and not own.startswith("hf:")
    check_out(out, Path(own) if own and local else None, None if own else downloads)
    tokenizer = load_tokenizer(tokenizer_folder) if tokenizer_folder else None
    limit, fraction, seed = limits
    if own is None:
        collector = collect_sources(domains, downloads, limit)
    else:
        collector = collect_own(own, domains, limit)
    if fraction is None:
        counts = [len(documents) for documents in collector.documents.values()]
        fraction = LEAST_HELD_OUT if own is None else fitting_fraction(counts)
    settings = Settings(limit, fraction, seed)
    frame = collector.to_frame(settings.heldout_fraction, settings.seed)
    losses = collector.losses()
    check_documents(frame, losses)
    fitting = (
        LARGEST_VOCABULARY if own is None else vocabulary_for(int(frame["text"].str.len().sum()))
    )
    tokenizer = tokenizer or train_tokenizer(frame, vocab_size or fitting)
    left_out = {str(reason): collector.left_out[reason] for reason in REASONS}
    manifest = write_corpus(frame, tokenizer, settings, left_out, out)
    click.echo(
        f"{out}: {manifest['documents']:,} documents of {len(manifest['domains'])} domains, "
        f"{manifest['splits']['train']['tokens']:,} tokens to train on and "
        f"{manifest['splits']['heldout']['tokens']:,} held out, "
        f"{manifest['tokenizer']['vocab_size']:,} different ones."
    )
    if losses:
        click.echo(f"Left out: {losses}.")
    if own is not None:
        click.echo(f"Next: {next_command(out)}")


if __name__ == "__main__":
    main(prog_name="python -m model.data")
