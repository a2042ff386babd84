"""How much memory a recording takes as documents become more: python -m benchmarks.recording_memory

Synthetic routing of the 1B/14B geometry (16 layers, top-8 of 128 with one shared) goes through the
real recipe, windows, parts and writer, at level "tokens". Each size runs in a process of its own;
its peak, the trace's bytes a token and the seconds are printed, and how much more the largest takes
than the smallest. The model's own memory, which is the same for any number of documents, is left
out.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from emo_viz.runs.record import Batches
    from model.run.inference import Encoded

LAYERS, ROUTED, SLOTS = 16, 127, 7
DOCUMENT_TOKENS = 200
SHELF = 8_192  # different tokens of which all documents are made


class Synthetic:
    """Stands for a model: random routing, as little compressible as there is."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        # Bit by bit: the peak is to be the recording's.
        self.ids = np.empty((LAYERS, SHELF, SLOTS), np.int16)
        for layer, token in np.ndindex(LAYERS, SHELF):
            self.ids[layer, token] = rng.permutation(ROUTED)[:SLOTS]
        self.weights = np.sort(rng.random((LAYERS, SHELF, SLOTS), dtype=np.float32))[..., ::-1]
        self.entropy = rng.random((LAYERS, SHELF), dtype=np.float32)
        self.loss = rng.random(SHELF, dtype=np.float32)
        self.rng = rng

    def record(self, documents: Sequence[np.ndarray]) -> "Batches":
        from model.run.recording import Routing

        for number, token_ids in enumerate(documents):
            start = self.rng.integers(SHELF - len(token_ids))
            own = slice(start, start + len(token_ids))
            usage = self.rng.random((LAYERS, ROUTED), dtype=np.float32)
            parts = (self.ids[:, own], self.weights[:, own], usage, self.entropy[:, own])
            yield [(number, Routing(token_ids, *parts, self.loss[own]))]


def measure(tokens: int) -> dict[str, float]:
    """Record so many tokens, in this process."""
    from emo_viz.runs.record import Job, write_trace
    from emo_viz.trace.schema import TracedModel

    words = [f"word{number}" for number in range(1_000)]
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(words, DOCUMENT_TOKENS)) for _ in range(tokens // DOCUMENT_TOKENS)]
    ids = [str(number) for number in range(len(texts))]
    job = Job(
        documents=pd.DataFrame({"id": ids, "domain": "synthetic", "text": texts}),
        model=TracedModel(
            name="synthetic",
            objective="unknown",
            num_layers=LAYERS,
            num_experts=ROUTED + 1,
            num_shared_experts=1,
            num_experts_per_tok=SLOTS + 1,
            checkpoint_sha256="",
        ),
        level="tokens",
        encode=_encode,
        record=Synthetic().record,
    )
    del texts
    before, started = _peak_mb(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trace = write_trace(job, Path(folder) / "trace", {})
        size = sum(file.stat().st_size for file in trace.path.iterdir())
        counted = trace.manifest.tokens
    return {
        "tokens": counted,
        "seconds": time.perf_counter() - started,
        "before_mb": before,
        "peak_mb": _peak_mb(),
        "bytes_a_token": size / counted,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _encode(text: str) -> "Encoded":
    from model.run.inference import Encoded

    words = text.split()
    ids = np.array([0, *(int(word.removeprefix("word")) for word in words)])
    return Encoded(ids, ["", *(f" {word}" for word in words)], 0)


@click.command()
@click.option("--tokens", type=int, multiple=True, default=(200_000, 2_000_000), show_default=True)
@click.option("--alone", is_flag=True, hidden=True)
def main(tokens: tuple[int, ...], alone: bool) -> None:
    """Print the peaks and their ratio."""
    if alone:
        click.echo(json.dumps(measure(tokens[0])))
        return
    peaks = []
    for count in tokens:
        command = [sys.executable, "-m", "benchmarks.recording_memory", "--alone"]
        ran = subprocess.run(
            [*command, f"--tokens={count}"], capture_output=True, text=True, check=True
        )
        found = json.loads(ran.stdout.splitlines()[-1])
        peaks.append(found["peak_mb"])
        click.echo(
            f"{found['tokens']:>10,} tokens  peak {found['peak_mb']:5.0f} MB "
            f"({found['before_mb']:.0f} before)  "
            f"{found['bytes_a_token']:4.0f} bytes a token  {found['seconds']:6.1f} s"
        )
    click.echo(f"The largest peak is {max(peaks) / peaks[0]:.3f} of the first.")


if __name__ == "__main__":
    main()
