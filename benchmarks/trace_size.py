"""How large a trace is and how fast it opens: python -m benchmarks.trace_size

Documents of made-up routing at the geometry of the 1B/14B models (16 layers, top-8 of 128), through
the real writer: bytes a token on disk, memory of writing a tenth of them and all, then what a page
does with the trace. Every line is a process of its own, so that its peak memory is its own. The
routing is of random router logits, the least compressible there is.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from emo_viz.trace import Trace
from emo_viz.trace.recorded import TokenRouting
from emo_viz.trace.schema import TracedModel
from emo_viz.trace.writer import TraceWriter

MODEL = TracedModel(
    name="synthetic",
    objective="unknown",
    num_layers=16,
    num_experts=128,
    num_shared_experts=0,
    num_experts_per_tok=8,
    checkpoint_sha256="0" * 64,
)
POOL = 1024  # tokens that are drawn once; each document permutes their experts
VOCABULARY = 50_000


@click.command()
@click.option("--documents", default=10_000, show_default=True)
@click.option("--tokens", default=200, show_default=True, help="Of a document.")
@click.option("--stage", hidden=True, default="all")
@click.option("--folder", hidden=True, type=click.Path(path_type=Path))
def main(documents: int, tokens: int, stage: str, folder: Path | None) -> None:
    """Print bytes a token, seconds and peak memory."""
    if stage != "all":
        assert folder is not None
        _measure(stage, lambda: STAGES[stage](folder, documents, tokens))
        return
    with tempfile.TemporaryDirectory() as place:
        whole, tenth = Path(place) / "whole", Path(place) / "tenth"
        _run("write", tenth, documents // 10, tokens)
        for name in STAGES:
            _run(name, whole, documents, tokens)


def _run(stage: str, folder: Path, documents: int, tokens: int) -> None:
    arguments = {"stage": stage, "folder": folder, "documents": documents, "tokens": tokens}
    options = [f"--{name}={value}" for name, value in arguments.items()]
    subprocess.run([sys.executable, "-m", "benchmarks.trace_size", *options], check=True)


def _measure(stage: str, run: Callable[[], str]) -> None:
    started = time.perf_counter()
    said = run()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{stage:<10} {seconds:8.2f} s   peak {peak:6.0f} MiB   {said}", flush=True)


def _write(folder: Path, documents: int, tokens: int) -> str:
    rng = np.random.default_rng(0)
    pool = _pool(rng)
    words = [f" {word:x}" for word in range(VOCABULARY)]
    with TraceWriter(folder, MODEL, "tokens") as writer:
        for number in range(documents):
            ids = (VOCABULARY * rng.random(tokens + 1) ** 3).astype(np.int64)
            texts = ["", *(words[i] for i in ids[1:])]
            row = {"id": f"doc-{number}", "domain": f"domain-{number % 24}", "text": "".join(texts)}
            writer.add(row, texts, _recording(pool, ids, rng))
    size = sum(path.stat().st_size for path in folder.iterdir())
    return f"{documents:,} documents of {tokens} tokens: {size / documents / tokens:.0f} bytes each"


def _pool(rng: np.random.Generator) -> np.ndarray:
    """Router probabilities [L, POOL, R]."""
    shape = (MODEL.num_layers, POOL, MODEL.num_experts)
    scores = np.exp(2 * rng.standard_normal(shape, dtype=np.float32))
    pool: np.ndarray = scores / scores.sum(axis=2, keepdims=True)
    return pool


def _recording(pool: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> TokenRouting:
    """A document of tokens out of the pool, with its own numbering of the experts."""
    experts, k = rng.permutation(MODEL.num_experts), MODEL.num_experts_per_tok
    probs = pool[:, rng.integers(0, POOL, len(ids))][:, :, experts]
    probs *= rng.uniform(0.9, 1.1, probs.shape[:2])[..., None].astype(np.float32)
    top = np.argpartition(-probs, k, axis=2)[:, :, :k]
    order = np.argsort(-np.take_along_axis(probs, top, axis=2), axis=2)
    top = np.take_along_axis(top, order, axis=2)
    loss = rng.gamma(2, 1.5, len(ids)).astype(np.float32)
    loss[0] = np.nan
    return TokenRouting(
        expert_ids=top.astype(np.int16),
        token_ids=ids,
        router_probs=probs,
        gate_weights=np.take_along_axis(probs, top, axis=2),
        entropy=-(probs * np.log(probs)).sum(axis=2),
        loss=loss,
    )


def _open(folder: Path, documents: int, tokens: int) -> str:
    """What every page does first: the facts of all documents, and the arrays mapped."""
    trace = Trace.open(folder)
    return f"{len(trace.facts):,} documents, usage {list(trace.usage.shape)}"


def _vectors(folder: Path, documents: int, tokens: int) -> str:
    """What the page of clusters reads: the usage of all documents as vectors."""
    flat = np.asarray(Trace.open(folder).usage, np.float32).reshape(documents, -1)
    return f"{flat.nbytes / 1e6:.0f} MB of vectors"


def _document(folder: Path, documents: int, tokens: int) -> str:
    """What a page of one document reads, ten times."""
    trace = Trace.open(folder)
    for number in np.linspace(0, documents - 1, 10).astype(int):
        assert trace.recorded(int(number)).expert_ids.shape[1] == tokens + 1
        trace.text(int(number))
    return "ten documents with their tokens"


def _texts(folder: Path, documents: int, tokens: int) -> str:
    return f"{Trace.open(folder).documents['text'].str.len().sum() / 1e6:.1f} M characters"


def _sql(folder: Path, documents: int, tokens: int) -> str:
    """One number over all tokens, and one over all experts of a hundred documents."""
    trace = Trace.open(folder)
    losses = trace.query("select text, avg(loss) as nats from tokens group by text")
    some = trace.query(
        "select layer, expert, count(*) as n from routing where document < 100 group by all"
    )
    return f"{len(losses):,} tokens by loss, {len(some):,} experts"


def _routing(folder: Path, documents: int, tokens: int) -> str:
    """Every expert of every token, counted."""
    found = Trace.open(folder).query(
        "select layer, expert, count(*) as n from routing group by all"
    )
    return f"{found['n'].sum() / 1e6:.0f} M choices of {len(found):,} experts"


STAGES: dict[str, Callable[[Path, int, int], str]] = {
    "write": _write,
    "open": _open,
    "vectors": _vectors,
    "document": _document,
    "texts": _texts,
    "sql": _sql,
    "routing": _routing,
}

if __name__ == "__main__":
    main()
