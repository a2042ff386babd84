"""What the Library page has done in the background: runs added, recorded and measured.

Each piece of work is one job of the server, whoever asked for it, and one is done at a time; only
fetching from the hub, which waits for the network, goes on beside it. A recording that was stopped
goes on where it was; whatever else was stopped leaves what was there.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from emo_viz.analysis.runs import Comparison, Run
from emo_viz.runs.progress import Report
from emo_viz.server import assets, catalogue, home, hub, imports, library, measurements, pairs
from emo_viz.server.jobs import Job, in_turn, registry
from model.files import check_tokenizer, no_checkpoint, read_json

CLUSTERS, MAX_TOKENS, PER_DOMAIN, MIN_DIST = 32, 256, 200, 0.9  # as the commands have them
STOP_SECONDS = 10.0
OF_RUN = "library"
RECORDING = "Recording"
FETCH, IMPORT = "fetch", "import"  # in the key of a job that adds a run


@dataclass(frozen=True)
class Step:
    """Something that can be made of the runs that are shown.

    key: of its job. noun: what its progress counts. there: whether it has been made. why_not: why
    it cannot be made now, in one sentence, else "".
    """

    key: str
    name: str
    noun: str
    there: bool
    why_not: str
    start: Callable[[], None]

    @property
    def verb(self) -> str:
        """What making it is called: "Record"."""
        return "Record" if self.name.startswith(RECORDING) else "Measure"

    @property
    def job(self) -> Job | None:
        return registry().find(self.key)


@dataclass(frozen=True)
class Recording:
    """How a run is to be recorded: over which documents (None: the bundled ones), how many of them
    (None: all), where and in which type."""

    documents: Path | None = None
    limit: int | None = None
    device: str = "cpu"
    dtype: str = "float32"


def add_folder(source: str) -> str:
    """Add a checkpoint folder, or all that `analyse` made of a pair; returns the id of the (first)
    run. Raises ValueError, one sentence, for what is no checkpoint with experts."""
    path = home.given_path(source)
    if (pair := pairs.at(path)) and pair.ids:
        pairs.check_free(pair.sources.name, path, pair.ids, assets.ids_elsewhere(path))
        pairs.keep(pair.sources.name, path)
        return pair.ids[0]
    if not (path / "config.json").is_file():
        raise no_checkpoint(path)
    _check_checkpoint(path)
    return home.add(path.name, str(path), _taken()).id


def listed(source: str) -> str:
    """The id of the run whose checkpoint lies in this folder, "" where there is none. Raises
    ValueError for what is no path."""
    path = home.given_path(source).resolve()
    own = (run for run in assets.runs() if run.checkpoint)
    return next((run.id for run in own if assets.checkpoint_path(run.id).resolve() == path), "")


def _check_checkpoint(path: Path) -> None:
    """Raises ValueError for what the pages could not open: by its config, the headers of its
    weights and the names of its files."""
    found = catalogue.read_model(path)
    objective = read_json(path / "config.json").get("objective")
    if objective == "dense" or not (found.experts or found.active):
        raise ValueError(
            f"{path.name} ({found.family}) names no experts in its config.json, so it has no "
            "routing to show; choose a mixture-of-experts checkpoint."
        )
    check_tokenizer(path)


def add_hub(name: str) -> str:
    """Fetch a checkpoint from the Hugging Face hub in the background and add it; returns the key
    of the job, whose result is the id of the run. Raises ValueError for what is no such name."""
    name = name.strip()
    if not assets.is_hub_name(name):
        raise ValueError(f"{name!r:.80} is not a name on the hub; it looks like owner/model.")
    home.check()
    key = f"{OF_RUN}|{FETCH}|{uuid4()}"

    def work(report: Report) -> str:
        imports.for_models()
        folder = hub.fetch(name, report)
        _check_checkpoint(folder)
        report(0, 0)
        return home.add(name, name, _taken()).id

    registry().start(key, work)
    return key


def add_file(
    path: Path,
    name: str = "",
    top_k: int | None = None,
    layers: int | None = None,
    experts: int | None = None,
) -> str:
    """Import a routing file of another tool in the background; as `add_hub`.

    Raises ValueError where the file is not there or nothing can be kept.
    """
    if not path.exists():
        raise ValueError(f"There is no file {path}; check the path.")
    home.check()
    key = f"{OF_RUN}|{IMPORT}|{uuid4()}"

    def work(report: Report) -> str:
        from emo_viz.runs.import_trace import Known, import_trace

        known = Known(name=name or None, num_layers=layers, top_k=top_k, num_experts=experts)
        run = home.free_id(name or path.name.partition(".")[0], _taken())
        import_trace(path, home.trace_path(run), known, report)
        return home.add(run, "", _taken(), run).id

    registry().start(key, in_turn(work))
    return key


def _taken() -> list[str]:
    return [run.id for run in assets.runs()]


def steps(runs: Comparison, how: Recording) -> list[Step]:
    """What can be recorded and measured of these runs, in the order in which it is needed.

    The recordings and token clusters of bundled runs, and of the user's own pairs, lie with them.
    """
    added = [run for run in runs if assets.is_added(run.id)]
    own = [
        step for run in added for step in (_recording(run, how), _clusters(run), _curves(run, runs))
    ]
    return [*own, _maps(runs), _token_map(runs)]


def _recording(run: Run, how: Recording) -> Step:
    usual = library.documents_path()

    def work(report: Report) -> None:
        from emo_viz.runs.record import Options, record
        from emo_viz.trace.documents import read_documents

        added = home.find(run.id)
        if added is None:
            raise ValueError(f"The run {run.id} is no longer here.")
        documents = read_documents(how.documents or usual)
        home.keep_documents(added, _named(how.documents or usual))
        options = Options(
            device=how.device, dtype=how.dtype, level="tokens", max_tokens=_max_tokens(run)
        )
        some = documents if how.limit is None else documents.head(how.limit)
        record(added.checkpoint, some, home.trace_path(run.id), options, report=report)

    there = run.trace is not None
    return _step("record", (run,), RECORDING, "documents", there, _no_checkpoint(run), work)


def _named(documents: Path) -> str:
    """How a run keeps what it was recorded over: the bundled ones may move with the app."""
    return "" if documents == assets.documents_path() else str(documents)


def _clusters(run: Run) -> Step:
    def work(report: Report) -> None:
        from emo_viz.runs.clusters import cluster_tokens

        cluster_tokens(
            assets.checkpoint_path(run.id),
            _documents(run),
            home.clusters_path(run.id),
            CLUSTERS,
            _max_tokens(run),
            report=report,
            run=run.id,
        )

    there = assets.token_clusters_path(run.id).is_file()
    return _step(
        "clusters", (run,), "Token clusters", "documents", there, _no_checkpoint(run), work
    )


def _maps(runs: Comparison) -> Step:
    name, ids = "maps.npz", runs.ids

    def work(report: Report) -> None:
        from emo_viz.runs.maps import map_documents

        traces = [assets.trace_path(run) for run in ids]
        out = home.analysis_path(name, ids)
        map_documents(traces, out, None, MIN_DIST, report=report, ids=ids)

    unrecorded = [run.label for run in runs if run.trace is None]
    why_not = f"Record {' and '.join(unrecorded)} first." if unrecorded else ""
    return _together(runs, name, "Map of documents", "maps", why_not, work)


def _token_map(runs: Comparison) -> Step:
    name, ids = "token_map.npz", runs.ids

    def work(report: Report) -> None:
        from emo_viz.runs.token_map import map_tokens

        models = [assets.checkpoint_path(run) for run in ids]
        clusters = [assets.token_clusters_path(run) for run in ids]
        out = home.analysis_path(name, ids)
        map_tokens(
            models,
            _documents(runs.first),
            clusters,
            out,
            PER_DOMAIN,
            None,
            MIN_DIST,
            report=report,
            ids=ids,
        )

    lacking = [run.label for run in runs if not assets.token_clusters_path(run.id).is_file()]
    first = f"Find the token clusters of {' and '.join(lacking)} first." if lacking else ""
    why_not = _first_of(*map(_no_checkpoint, runs), first)
    return _together(runs, name, "Map of tokens", "documents", why_not, work)


def _curves(run: Run, runs: Comparison) -> Step:
    why_not = _no_checkpoint(run)
    there = assets.curves_path(run.id).is_file()
    key = "" if why_not else measurements.key({run.id: assets.checkpoint_path(run.id)})

    def start() -> None:
        home.check()
        measurements.start(library.models().of(runs.only(run.id)))

    return Step(key, f"Subset curves of {run.label}", "passes", there, why_not, start)


def _together(
    runs: Comparison, file: str, name: str, noun: str, why_not: str, work: Callable[[Report], None]
) -> Step:
    there = assets.measured_path(file, runs.ids).is_file()
    return _step(file, runs.runs, name, noun, there, why_not, work)


def _step(
    what: str,
    runs: tuple[Run, ...],
    name: str,
    noun: str,
    there: bool,
    why_not: str,
    work: Callable[[Report], None],
) -> Step:
    key = "|".join([OF_RUN, what, *(run.id for run in runs)])

    def start() -> None:
        home.check()
        registry().start(key, in_turn(work))

    of = " and ".join(run.label for run in runs)
    return Step(key, f"{name} of {of}", noun, there, why_not, start)


def _first_of(*sentences: str) -> str:
    return next(filter(None, sentences), "")


def _no_checkpoint(run: Run) -> str:
    if run.checkpoint is None:
        return f"{run.label} is a recording alone; add its checkpoint as a run to record it here."
    if not (run.checkpoint / "config.json").is_file():
        return f"The checkpoint of {run.label} is no longer at {run.checkpoint}; put it back."
    return ""


def _max_tokens(run: Run) -> int:
    """Of a document, as the commands have it, or as many as the model can take."""
    context = catalogue.read_model(assets.checkpoint_path(run.id)).context
    return min(MAX_TOKENS, context or MAX_TOKENS)


def _documents(run: Run) -> Path:
    """What a run was recorded over."""
    added = home.find(run.id)
    return Path(added.documents) if added and added.documents else assets.documents_path([run.id])


def delete(run: str) -> None:
    """Stop what is being made of a run that was added, then delete it: see `home.delete`.

    Raises ValueError if it is still being worked on, or cannot be deleted.
    """
    _stop([run])
    home.delete(run)


def delete_pair(name: str) -> None:
    """As `delete`, of a pair of the user's own: see `pairs.delete`."""
    pair = pairs.listed().get(name)
    if isinstance(pair, pairs.Pair):
        _stop(pair.sources.ids)
    pairs.delete(name)


def _stop(runs: Collection[str]) -> None:
    """Stop what is being made of any of these runs. Raises ValueError if that takes long."""
    jobs = [job for key, job in registry().running().items() if _named_in(key) & {*runs}]
    for job in jobs:
        job.cancel()
    for job in jobs:
        job.wait(STOP_SECONDS)
    if any(job.running for job in jobs):
        names = " and ".join(runs)
        raise ValueError(f"{names}: still being worked on; that stops soon: delete it then.")


def _named_in(key: str) -> set[str]:
    """What the key of a job names, runs among it: alone or before the digest of their weights."""
    return {part.partition(" ")[0] for part in key.split("|")}
