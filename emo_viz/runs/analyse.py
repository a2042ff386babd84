"""From finished training runs and their corpus to a folder that the app shows: every step once.

The folder is laid out as `assets` is. What was done by content (`emo_viz.runs.ledger`) is not done
again, so a call that was stopped goes on, and one after another training makes anew what differs.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from emo_viz.analysis.projection import FEWEST_POINTS
from emo_viz.analysis.runs import safe_id
from emo_viz.runs import curves as curves_of
from emo_viz.runs import documents as documents_of
from emo_viz.runs.ablate_experts import measure_effects
from emo_viz.runs.clusters import cluster_tokens
from emo_viz.runs.experts import measure_experts
from emo_viz.runs.glance import make as make_glance
from emo_viz.runs.ledger import Ledger, Step
from emo_viz.runs.maps import map_documents
from emo_viz.runs.progress import Report, unreported
from emo_viz.runs.record import record
from emo_viz.runs.sources import Sources, read_sources, write_sources
from emo_viz.runs.token_map import map_tokens
from emo_viz.runs.trained import RUN
from emo_viz.runs.training_history import KEEPS, measure_history
from emo_viz.runs.training_history import PER_DOMAIN as HISTORY_PER_DOMAIN
from emo_viz.trace.documents import read_documents
from model.files import SINGLE, read_json
from model.train.steps import METRICS, newest_first, step_of

LEDGER = "analysis/made.json"
ORDER = ("emo", "standard")
EXPORT, SETTINGS = "export", "training.json"
FEWEST_MOMENTS = 2  # of a training, to show how it went
LICENCE = "other"  # the texts may be anybody's
CLUSTERS, MAX_TOKENS, PER_DOMAIN, MIN_DIST = 32, 256, 200, 0.9  # as the single commands have them
EFFECT_DOCUMENTS, EFFECT_TOKENS = 2, 64
WORTH_SHARING = 1000  # documents read: before, new processes take longer to start than they save
PROBED = 8  # documents that are read to tell how long all will take
Show = Callable[[str], AbstractContextManager[Report]]
"""What shows a step's progress under its name."""


@dataclass(frozen=True)
class Trained:
    """A finished training run: its folder, and what it is called in the app."""

    folder: Path
    id: str


@dataclass(frozen=True)
class Analysis:
    """What is made of which runs: `out` is the folder, `corpus` what they were trained on, `name`
    what the ids begin with."""

    runs: tuple[Trained, ...]
    corpus: Path
    out: Path
    workers: int = 1
    name: str = "own"

    @property
    def sources(self) -> Sources:
        return Sources(
            self.name,
            tuple(run.id for run in self.runs),
            tuple(run.folder.resolve() for run in self.runs),
            self.corpus.resolve(),
        )

    def workers_for(self, passes: float) -> int:
        """All of them for so many documents read, or one where others would start in vain."""
        return self.workers if passes >= WORTH_SHARING else 1

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.out / LEDGER)

    @property
    def documents(self) -> Path:
        return self.out / "documents" / documents_of.FILES[0]

    @property
    def calibration(self) -> Path:
        return self.out / "documents" / documents_of.FILES[1]

    @property
    def checkpoints(self) -> list[Path]:
        return [self.out / "checkpoints" / run.id for run in self.runs]

    def file(self, name: str) -> Path:
        """A file of the analyses."""
        return self.out / "analysis" / name


def find_runs(folders: Sequence[Path], name: str) -> tuple[Trained, ...]:
    """The finished runs among folders, or in them: one or two, EMO first.

    name: what their ids begin with. Raises ValueError where there are none, more than two, or one
    that is not finished.
    """
    found = [run for folder in folders for run in _runs_in(folder)]
    found.sort(key=lambda run: (*(run.name != role for role in ORDER), run.name))
    if len(found) > 2:
        names = ", ".join(str(run) for run in found)
        raise ValueError(f"These are {len(found)} runs ({names}); name one or two with --runs.")
    ids = [safe_id(f"{name}-{run.resolve().name}") for run in found]
    if len(set(ids)) < len(ids):
        raise ValueError(f"Two runs are called {found[0].name}; rename the folder of one.")
    return tuple(map(Trained, found, ids))


def _runs_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; train first: python -m model.train.pair.")
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    runs = [folder] if _is_run(folder) else [path for path in inside if _is_run(path)]
    if not runs:
        raise ValueError(
            f"{folder} holds no training run; train a pair first: python -m model.train.pair --out "
            f"{folder}."
        )
    if unfinished := [run for run in runs if not (run / EXPORT / SETTINGS).is_file()]:
        raise ValueError(
            f"The run {unfinished[0]} is not finished; call its training again, which goes on "
            "where it was, or name a finished run alone with --runs."
        )
    return runs


def _is_run(folder: Path) -> bool:
    """Whether a training began there."""
    return (folder / METRICS).is_file() or (folder / EXPORT / SETTINGS).is_file()


def check_out(job: Analysis) -> None:
    """Raises ValueError where the folder holds results that no such analysis wrote, or one of a
    pair of another name."""
    if job.out.exists() and not job.out.is_dir():
        raise ValueError(f"{job.out} is a file; --out needs a folder.")
    if (there := _there(job.out)) and there.name != job.name:
        raise ValueError(
            f"{job.out} holds a pair called {there.name}; choose another --out, or --name "
            f"{there.name}."
        )
    steps = [*_first_steps(job), *_steps(job, 0, 0)]
    theirs = [path for step in steps for path in step.outputs if path.exists()]
    if theirs and not job.ledger.exists:
        raise ValueError(
            f"{theirs[0]} is there, and not by this command; choose another --out, or move it away."
        )


def check_same(job: Analysis) -> None:
    """Raises ValueError where the folder is of another corpus, or of a training that is not among
    these."""
    there, asked = _there(job.out), job.sources
    if there is None:
        return
    runs = [run.resolve() for run in there.runs]
    if not {*runs} <= {*asked.runs} or there.corpus.resolve() != asked.corpus:
        raise ValueError(
            f"A pair called {job.name} is made already, of {' and '.join(map(str, runs))} and "
            f"{there.corpus}; choose another --name, or delete it on the Library page."
        )


def _there(folder: Path) -> Sources | None:
    """What the folder says that it is of; None where it says nothing that can be read."""
    with suppress(ValueError):
        return read_sources(folder)
    return None


def begin(job: Analysis) -> None:
    """Have the folder say what it is of, which makes it one that the app shows.

    Raises ValueError where it holds results that no such analysis wrote.
    """
    check_out(job)
    job.ledger.begin()
    write_sources(job.out, job.sources)


def analyse(job: Analysis, show: Show, tell: Callable[[str], None] = lambda said: None) -> bool:
    """Make everything that is not there yet; returns whether there was anything to make.

    tell: gets a sentence on what is made, on what cannot be, and how long it may take. Raises
    ValueError for what cannot be read or written; what was finished stays.
    """
    begin(job)
    first = list(job.ledger.pending(_first_steps(job)))
    for step in first:
        with show(step.name) as report:
            job.ledger.make(step, report)
    named = read_documents(job.documents)["domain"]
    texts, domains = len(named), named.nunique()
    tell(f"{texts:,} documents of {domains} domain{'s' * (domains != 1)} to show and measure.")
    for sentence in (*_cannot(texts, domains), *_no_history(job)):
        tell(sentence)
    steps = list(job.ledger.pending(_steps(job, texts, domains)))
    if steps:
        tell(estimate(job, steps))
    for number, step in enumerate(steps, 1):
        with show(f"{number} of {len(steps)}: {step.name}") as report:
            job.ledger.make(step, report)
    return bool(first or steps)


def _cannot(texts: int, domains: int) -> Iterator[str]:
    """What so few documents do not show."""
    if texts < FEWEST_POINTS:
        yield f"{texts} documents make no map of documents; it takes {FEWEST_POINTS}."
    if domains == 1:
        yield (
            "With one domain there is nothing to compare domains by: no curve of another domain's "
            "experts, and clusters say nothing of domains. Sub-folders, or the field domain, make "
            "more."
        )


def _no_history(job: Analysis) -> Iterator[str]:
    """Of which trainings too few checkpoints are left to show how they went."""
    for run in job.runs:
        if len(found := _moments(run.folder)) < FEWEST_MOMENTS:
            yield (
                f"The training of {run.id} has left {len(found)} checkpoint"
                f"{'s' * (len(found) != 1)} of one process, so how its routing came about is not "
                "shown; python -m model.train.pair --keep-at 50,100,400 keeps some for it."
            )


def _moments(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a training run by one process, with their steps, in order."""
    return [
        (step_of(path), path)
        for path in reversed(newest_first(folder))
        if (path / SINGLE).is_file() and (path / RUN).is_file()
    ]


def estimate(job: Analysis, steps: Sequence[Step]) -> str:
    """How long the steps may take on this machine, by reading a few documents now."""
    each = _seconds_a_document(job)
    seconds = {step.name: step.passes * each + step.seconds for step in steps}
    longest = max(seconds, key=lambda name: seconds[name])
    return (
        f"{len(steps)} steps, about {in_minutes(sum(seconds.values()))} if the machine stays as "
        f"busy as now; most for {longest}."
    )


def in_minutes(seconds: float) -> str:
    """ "40 seconds", or "12 minutes"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} second{'s' * (round(seconds) > 1)}"
    return f"{round(seconds / 60)} minutes"


def _seconds_a_document(job: Analysis) -> float:
    from model.run.live import open_live

    live = open_live(job.checkpoints[0])
    texts = read_documents(job.documents)["text"].head(PROBED + 1)
    tokens = [live.encode(text, MAX_TOKENS).token_ids for text in texts]
    live.record(tokens[0])  # the first one compiles and allocates
    started = time.perf_counter()
    for each in tokens:
        live.record(each)
    return (time.perf_counter() - started) / len(tokens)


def _first_steps(job: Analysis) -> Iterator[Step]:
    """What the others read: the documents, and the checkpoints."""
    where = job.out / "documents"
    yield Step(
        "the documents",
        (job.corpus / "documents.parquet", job.corpus / "tokenizer"),
        tuple(where / name for name in documents_of.FILES),
        lambda _: documents_of.choose(job.corpus, where, max_megabytes=float("inf")),
    )
    for run, checkpoint in zip(job.runs, job.checkpoints, strict=True):
        yield Step(
            f"the model of {run.id}",
            (run.folder / EXPORT, run.folder / METRICS),
            (checkpoint,),
            partial(_release, run.folder, checkpoint),
        )


def lacking(sources: Sources, out: Path) -> list[str]:
    """What can be made of these in the folder and is not there, by the names of the steps."""
    runs = tuple(map(Trained, sources.runs, sources.ids))
    job = Analysis(runs, sources.corpus, out, name=sources.name)
    steps = (*_first_steps(job), *_steps(job, _number(job.documents), 1))
    return [step.name for step in steps if not all(path.exists() for path in step.outputs)]


def _number(documents: Path) -> int:
    """How many documents there are, without reading their texts; 0 for none that can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(documents).num_rows)
    except (OSError, pa.ArrowException):
        return 0


def _release(folder: Path, out: Path, report: Report = unreported) -> None:
    from model.train.release import release

    release(folder, out, licence=LICENCE)


def _steps(job: Analysis, texts: int, domains: int) -> Iterator[Step]:
    """All else, in an order in which it can be made; texts, domains: how many there are."""
    for run, checkpoint in zip(job.runs, job.checkpoints, strict=True):
        yield from _of_run(job, run, checkpoint, texts, domains)
    if texts >= FEWEST_POINTS or not texts:
        yield _map(job)
    yield _token_map(job, texts)
    yield _curves(job, texts)
    yield _glance(job)


def _of_run(
    job: Analysis, trained: Trained, checkpoint: Path, texts: int, domains: int
) -> Iterator[Step]:
    run = trained.id
    inputs, documents = (checkpoint, job.documents), job.documents
    trace, clusters = job.out / "traces" / run, job.file(f"clusters-{run}.npz")
    passes = 60.0 * EFFECT_DOCUMENTS * domains
    workers = job.workers_for(passes)
    experts, effects = job.file(f"experts-{run}.npz"), job.file(f"expert-effects-{run}.npz")
    yield Step(
        f"the recording of {run}",
        inputs,
        (trace,),
        lambda report: record(checkpoint, read_documents(documents), trace, report=report),
        passes=texts,
    )
    yield Step(
        f"the token clusters of {run}",
        inputs,
        (clusters,),
        lambda report: cluster_tokens(
            checkpoint, documents, clusters, CLUSTERS, MAX_TOKENS, report=report, run=run
        ),
        {"clusters": CLUSTERS},
        passes=texts,
        seconds=10 + 0.1 * texts,
    )
    yield Step(
        f"the experts of {run}",
        inputs,
        (experts,),
        lambda report: measure_experts(checkpoint, documents, experts, run, report),
        passes=texts,
        seconds=5,
    )
    yield Step(
        f"what {run} loses without each expert",
        inputs,
        (effects,),
        lambda report: measure_effects(
            checkpoint,
            documents,
            effects,
            run,
            EFFECT_DOCUMENTS,
            EFFECT_TOKENS,
            report,
            workers=workers,
        ),
        {"documents": EFFECT_DOCUMENTS, "tokens": EFFECT_TOKENS},
        passes=passes / workers,
    )
    moments = _moments(trained.folder)
    if len(moments) >= FEWEST_MOMENTS:
        yield _history(job, run, checkpoint, moments, domains)


def _history(
    job: Analysis, run: str, checkpoint: Path, moments: list[tuple[int, Path]], domains: int
) -> Step:
    out = job.file(f"training-{run}.npz")
    passes = 6.0 * HISTORY_PER_DOMAIN * domains * len(moments)
    workers = job.workers_for(passes)

    def work(report: Report) -> object:
        return measure_history(
            moments,
            job.documents,
            job.calibration,
            out,
            checkpoint,
            _keeps(checkpoint),
            run=run,
            about="The checkpoints that its training has left.",
            report=report,
            anew=True,
            workers=workers,
        )

    files = tuple(path / name for _, path in moments for name in (SINGLE, RUN))
    return Step(
        f"how {run} came about in training",
        (*files, checkpoint, job.documents, job.calibration),
        (out,),
        work,
        passes=passes / workers,
    )


def _keeps(checkpoint: Path) -> tuple[int, ...]:
    """The usual sizes of a cut that such a model can have; of a small one, half of its experts."""
    config = read_json(checkpoint / "config.json")
    least, whole = int(config["num_experts_per_tok"]), int(config["num_experts"])
    return tuple(keep for keep in KEEPS if least <= keep < whole) or (max(least, whole // 2),)


def _map(job: Analysis) -> Step:
    traces = [job.out / "traces" / run.id for run in job.runs]
    out = job.file("maps.npz")
    return Step(
        "the map of documents",
        tuple(traces),
        (out,),
        lambda report: map_documents(traces, out, None, MIN_DIST, report=report),
        seconds=20,
    )


def _token_map(job: Analysis, texts: int) -> Step:
    clusters = [job.file(f"clusters-{run.id}.npz") for run in job.runs]
    models, out = job.checkpoints, job.file("token_map.npz")
    return Step(
        "the map of tokens",
        (*models, job.documents, *clusters),
        (out,),
        lambda report: map_tokens(
            models, job.documents, clusters, out, PER_DOMAIN, None, MIN_DIST, report=report
        ),
        {"per_domain": PER_DOMAIN},
        passes=texts * len(models),
        seconds=20,
    )


def _curves(job: Analysis, texts: int) -> Step:
    models, out = job.checkpoints, job.file("curves.parquet")

    def work(report: Report) -> object:
        plan = curves_of.plan_files(models, job.documents, job.calibration, out)
        return curves_of.measure(plan, curves_of.Workers(job.workers), report)

    return Step(
        "the curves of what a cut costs",
        (*models, job.documents, job.calibration),
        (out, out.with_suffix(".json")),
        work,
        passes=30.0 * texts * len(models) / job.workers,
    )


def _glance(job: Analysis) -> Step:
    models, out, measured = job.checkpoints, job.file("glance.npz"), job.file("curves.parquet")
    return Step(
        "the first screen",
        (*models, job.documents, job.calibration, measured),
        (out,),
        lambda report: make_glance(
            models, job.documents, job.calibration, out, measured, report=report
        ),
        passes=40.0 * len(models),
    )
