"""Command line of the corpus: python -m model.data build --help"""

from pathlib import Path

import click

from model.data.build import Settings, check_documents, check_out, write_corpus
from model.data.collect import collect_own, collect_sources
from model.data.documents import CorpusError
from model.data.tokenizer import MIN_VOCAB_SIZE, load_tokenizer, train_tokenizer

FOLDER = click.Path(path_type=Path)


@click.group()
def main() -> None:
    """Make the corpus that the models learn from."""


@main.command()
@click.option(
    "--documents",
    help="Your own data: a .jsonl, .jsonl.gz or .parquet file with the "
    "field text (and domain, id, parent, licence, source), a folder of text files with "
    "a sub-folder for each domain, or hf:NAME[:SPLIT].",
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
    try:
        _build(documents, out, downloads, wanted, vocab_size, tokenizer, settings)
    except OSError as error:
        raise CorpusError(f"{error.filename or out}: {error.strerror or error}.") from error


def _build(
    own: str | None,
    out: Path,
    downloads: Path,
    domains: list[str],
    vocab_size: int,
    tokenizer_folder: Path | None,
    settings: Settings,
) -> None:
    check_out(out)
    tokenizer = load_tokenizer(tokenizer_folder) if tokenizer_folder else None
    limit = settings.max_bytes_per_domain
    if own is None:
        collector = collect_sources(domains, downloads, limit)
    else:
        collector = collect_own(own, domains, limit)
    frame = collector.to_frame(settings.heldout_fraction, settings.seed)
    check_documents(frame)
    tokenizer = tokenizer or train_tokenizer(frame, vocab_size)
    manifest = write_corpus(frame, tokenizer, settings, out)
    click.echo(
        f"{out}: {manifest['documents']:,} documents of {len(manifest['domains'])} domains, "
        f"{manifest['splits']['train']['tokens']:,} tokens to train on and "
        f"{manifest['splits']['heldout']['tokens']:,} held out."
    )


if __name__ == "__main__":
    main(prog_name="python -m model.data")
