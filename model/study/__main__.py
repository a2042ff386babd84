"""The study's command line: python -m model.study run | table | pack --help"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import click
from safetensors.torch import load_file, save_file

from model.cli import Command, device_option, say
from model.data.pack import pack, unpack
from model.data.shards import corpus_digest
from model.files import check_writable, new_file, read_json, weight_files, write_json, write_text
from model.study.queue import Queue, cores_each
from model.study.run import Place, finished, serve
from model.study.runs import RUNS, SEEDS, Run, chosen
from model.study.table import FORMAT, FORMAT_VERSION, table
from model.train.parallel import own_device

FOLDER = click.Path(path_type=Path)
RESULTS = "results.json"
SETTINGS = "study.json"


@click.group()
def main() -> None:
    """Compare EMO with its ablations and baselines."""


@main.command(cls=Command)
@click.option("--corpus", type=FOLDER, required=True, help="A corpus folder, or a packed file.")
@click.option("--out", type=FOLDER, required=True, help=f"Folder for {RESULTS}.")
@click.option("--work", "work_folder", type=FOLDER, help="Folder of the runs: <out>/runs.")
@device_option
@click.option("--only", default="", help="Only these runs: emo,standard-s1.")
@click.option(
    "--seeds",
    type=click.IntRange(1, len(SEEDS)),
    default=len(SEEDS),
    show_default=True,
    help="Of each run, the first so many.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Stop by then; 0: no limit.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each job.")
@click.option("--steps", type=click.IntRange(min=1), help="Of every run, for a rehearsal.")
@click.option("--rows", type=click.IntRange(min=1), help="Packed rows a step, for a rehearsal.")
@click.option("--keep", default="", help="Runs whose weights go to <out>, a file each.")
def run(
    corpus: Path,
    out: Path,
    work_folder: Path | None,
    device: str,
    only: str,
    seeds: int,
    minutes: float,
    jobs: int,
    threads: int | None,
    steps: int | None,
    rows: int | None,
    keep: str,
) -> None:
    """Train and evaluate what is not done yet; the same command goes on after a kill."""
    runs = chosen(_names(only), seeds)
    kept = chosen(_names(keep)) if _names(keep) else []
    place_name = own_device(device).type
    out.mkdir(parents=True, exist_ok=True)
    work_folder = work_folder or out / "runs"
    check_writable(out / RESULTS)
    if corpus.is_file():
        corpus = unpack(corpus, work_folder / "corpus")
    place = Place(corpus, work_folder, place_name, steps, rows)
    _check_same(place, corpus_digest(corpus))
    results = {each.key: found for each in RUNS if (found := finished(each, place))}
    queue = Queue(
        runs,
        jobs,
        partial(serve, place, threads or cores_each(jobs)),
        minutes,
        say,
        finished=set(results),
    )

    def done(run: Run, result: dict[str, Any]) -> None:
        results[run.key] = result
        _write(out, results, queue.failed)
        _keep([each for each in kept if each.key in results], place, out)

    queue.done = done
    _write(out, results, queue.failed)
    _keep([each for each in kept if each.key in results], place, out)
    say(
        f"{_count(runs, results)} runs are done; {jobs} at a time, each with its metrics.jsonl in "
        f"{work_folder}."
    )
    queue.work()
    _write(out, results, queue.failed)
    say(f"{out / RESULTS}: {_count(runs, results)} runs.")


def _count(runs: list[Run], results: dict[str, Any]) -> str:
    return f"{sum(run.key in results for run in runs)} of {len(runs)}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check_same(place: Place, digest: str) -> None:
    """A study is one corpus, device and size. Raises ValueError for the folder of another."""
    wanted = {"corpus": digest, "steps": place.steps, "rows": place.rows, "device": place.device}
    path = place.work / SETTINGS
    if not path.is_file():
        write_json(path, wanted)
        return
    found = read_json(path)
    if other := [name for name in wanted if found.get(name) != wanted[name]]:
        raise ValueError(
            f"{place.work} holds a study with another {' and '.join(other)}; give the same, or "
            "choose another folder."
        )


def _keep(runs: list[Run], place: Place, out: Path) -> None:
    """The weights of each as one file, whose header has the config: see `restore`."""
    for run in runs:
        export, file = place.folder(run.key) / "export", out / f"{run.key}.safetensors"
        if not file.is_file():
            config = (export / "config.json").read_text(encoding="utf-8")
            with new_file(file) as temporary:
                weights = load_file(weight_files(export)[0])
                save_file(weights, temporary, metadata={"format": "pt", "config": config})


def _write(out: Path, results: dict[str, Any], failed: dict[str, str]) -> None:
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "failed": failed}
    write_json(out / RESULTS, content | {"runs": results}, indent=None)


@main.command("table", cls=Command)
@click.option("--out", type=FOLDER, required=True, help=f"Folder with {RESULTS}.")
@click.option("--to", type=FOLDER, help="Write the table to this file, not to the terminal.")
def show(out: Path, to: Path | None) -> None:
    """The results as Markdown, with intervals over documents and the spread of the seeds."""
    text = table(read_json(out / RESULTS))
    if to is None:
        say(text)
    else:
        write_text(to, text)


@main.command("pack", cls=Command)
@click.option("--corpus", type=FOLDER, required=True, help="Made by python -m model.data build.")
@click.option("--out", type=FOLDER, required=True, help="The file to write, .tar.xz.")
@click.option(
    "--train-tokens",
    type=click.IntRange(min=1),
    default=20_000_000,
    show_default=True,
    help="Tokens to train on that go along, at most.",
)
@click.option(
    "--per-domain",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Held-out documents that are evaluated, and as many that choose the experts.",
)
def pack_corpus(corpus: Path, out: Path, train_tokens: int, per_domain: int) -> None:
    """Make one small file of a corpus, for a machine to which little can be carried."""
    manifest = pack(corpus, out, train_tokens, per_domain, per_domain)
    train, heldout = manifest["splits"]["train"], manifest["splits"]["heldout"]
    say(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {train['tokens']:,} tokens to train on and "
        f"{heldout['documents']:,} held-out documents."
    )


@main.command(cls=Command)
@click.option("--weights", type=FOLDER, required=True, help="A file that --keep wrote.")
@click.option("--corpus", type=FOLDER, required=True, help="For the tokenizer.")
@click.option("--out", type=FOLDER, required=True, help="The checkpoint folder to make.")
def restore(weights: Path, corpus: Path, out: Path) -> None:
    """Make a checkpoint folder of the weights that a run kept."""
    from safetensors import safe_open

    from model.files import new_folder

    if out.exists():
        raise ValueError(f"{out} is there already; name a folder that is not.")
    with safe_open(weights, framework="pt") as file:
        config = (file.metadata() or {}).get("config")
    if config is None:
        raise ValueError(f"{weights} names no config in its header; give a file of --keep.")
    with new_folder(out) as folder:
        shutil.copyfile(weights, folder / "model.safetensors")
        write_text(folder / "config.json", config)
        for path in (corpus / "tokenizer").iterdir():
            shutil.copyfile(path, folder / path.name)
    say(f"{out}: a checkpoint.")


if __name__ == "__main__":
    main(prog_name="python -m model.study")
