"""Bundle a finished run: python -m model.train.release --run runs/nano-emo --out FOLDER

Copies the exported model with its training settings and metrics, and writes a model card.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import click
from safetensors import safe_open

CARD = Path(__file__).with_name("model_card.md").read_text()


@click.command()
@click.option("--run", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(run: Path, out: Path) -> None:
    """Copy a finished run's model, settings and metrics, and write its model card."""
    if not (run / "export" / "training.json").is_file():
        raise click.UsageError(f"{run} has no finished export; run python -m model.train first.")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(run / "export", partial)
    shutil.copy(run / "metrics.jsonl", partial)
    (partial / "README.md").write_text(model_card(run, out.name))
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def model_card(run: Path, name: str) -> str:
    """The card's text, every figure read from the run."""
    training: dict[str, Any] = json.loads((run / "export" / "training.json").read_text())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    emo = training["objective"] == "emo"
    span = f"{training['pool_size_min']} to {training['pool_size_max']} experts"
    with safe_open(run / "export" / "model.safetensors", framework="np") as weights:
        names = weights.keys()
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    facts = {
        "name": name,
        "what": "mixture of experts trained with document pools (EMO)" if emo else "standard MoE",
        "parameters": parameters / 1e6,
        "pool": f"{span}, drawn per document and layer" if emo else "none",
        "final_loss": sum(m["loss"] for m in metrics[-50:]) / len(metrics[-50:]),
        "heldout_loss": [m["heldout_loss"] for m in metrics if "heldout_loss" in m][-1],
    }
    return CARD.format(**(training | facts))


if __name__ == "__main__":
    main()
