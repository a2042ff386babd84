"""Command line of the corpus: python -m model.data build --help"""

from pathlib import Path

import click

from model.cli import Command
from model.data.build import Settings, check_documents, check_out, write_corpus
from model.data.collect import collect_own, collect_sources
from model.data.documents import REASONS
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
    "--vocab-size", type=click.IntRange(MIN_VOCAB_SIZE, 2**16), default=4096, show_default=True
)
@click.option("--tokenizer", type=FOLDER, help="A saved tokenizer to use; none is trained then.")
@click.option(
    "--heldout-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the documents' order.")
def build(
    documents: str | None,
    out: Path,
    downloads: Path,
    domains: str,
    max_bytes_per_domain: int,
    vocab_size: int,
    tokenizer: Path | None,
    heldout_fraction: float,
    seed: int,
) -> None:
    """Build a corpus of documents with a domain, from open packages or from your own data."""
    settings = Settings(max_bytes_per_domain, heldout_fraction, seed)
    wanted = [name.strip() for name in domains.split(",") if name.strip()]
    _build(documents, out, downloads, wanted, vocab_size, tokenizer, settings)


def _build(
    own: str | None,
    out: Path,
    downloads: Path,
    domains: list[str],
    vocab_size: int,
    tokenizer_folder: Path | None,
    settings: Settings,
) -> None:
    local = own is not None and not own.startswith("hf:")
    check_out(out, Path(own) if own and local else None, None if own else downloads)
    tokenizer = load_tokenizer(tokenizer_folder) if tokenizer_folder else None
    limit = settings.max_bytes_per_domain
    if own is None:
        collector = collect_sources(domains, downloads, limit)
    else:
        collector = collect_own(own, domains, limit)
    frame = collector.to_frame(settings.heldout_fraction, settings.seed)
    losses = collector.losses()
    check_documents(frame, losses)
    tokenizer = tokenizer or train_tokenizer(frame, vocab_size)
    left_out = {str(reason): collector.left_out[reason] for reason in REASONS}
    manifest = write_corpus(frame, tokenizer, settings, left_out, out)
    click.echo(
        f"{out}: {manifest['documents']:,} documents of {len(manifest['domains'])} domains, "
        f"{manifest['splits']['train']['tokens']:,} tokens to train on and "
        f"{manifest['splits']['heldout']['tokens']:,} held out."
    )
    if losses:
        click.echo(f"Left out: {losses}.")


if __name__ == "__main__":
    main(prog_name="python -m model.data")
