"""What is known of the experts of a run: its recording by document, and what its tokens say.

The latter is a file beside the run's analyses, or is gathered in the background on request and kept
by the server; of added runs it is written into the user's folder.
"""

from pathlib import Path

from emo_viz.analysis import expert_effects
from emo_viz.analysis.expert_effects import Effects
from emo_viz.analysis.expert_tokens import ExpertTokens, load, save
from emo_viz.analysis.experts import ExpertUse, use_of
from emo_viz.analysis.origins import Weights
from emo_viz.analysis.runs import Run
from emo_viz.runs import ablate_experts, experts
from emo_viz.runs.progress import Report
from emo_viz.server import assets, caches, home, library
from emo_viz.server.jobs import Job, in_turn, politely, registry
from model.files import weights_digest

FILE, EFFECTS = "experts.npz", "expert-effects.npz"
PER_DOMAIN = 4  # documents that are read without an expert on request


def path(run: str) -> Path:
    """Where what tokens say of a run's experts lies, or belongs."""
    if assets.is_added(run):
        return home.analysis_path(FILE, [run])
    return assets.analysis_path(f"experts-{run}.npz", run)


def use(run: str) -> ExpertUse:
    """How a run's experts are used, by its trace. Raises Missing, or Absent if it has no usage."""
    return _use(library.trace(run), library.trace_key(run))


def tokens(run: Run) -> ExpertTokens | None:
    """What tokens say of its experts; None where nobody has gathered it.

    Raises ValueError for a file that cannot be read.
    """
    job = find(run)
    if job is not None and job.result is not None:
        found: ExpertTokens = job.result
        return found
    file = path(run.id)
    if not file.exists():
        return None
    read = _load(file, assets.content(file))
    _check_run(file, read, run)
    of_trace = read.info.get("of") == "trace"
    held = len(use(run.id).ids if of_trace else library.documents([run.id]))
    if int(read.context_rows.max(initial=-1)) >= held:
        raise ValueError(f"{file.name} names documents that are not here; it must be made again.")
    return read


def find(run: Run) -> Job | None:
    """The gathering of a run's tokens, if anybody asked for it."""
    return registry().find(_key(run))


def can_gather(run: Run) -> bool:
    """Whether it can be gathered: the trace has tokens, or the model is here to read them."""
    return library.can_run(run.id) or library.trace(run.id).has_tokens


def gather(run: Run) -> None:
    """Gather in the background what tokens say of a run's experts. Raises Missing."""
    trace, out = library.trace(run.id), path(run.id)

    def keep(found: ExpertTokens) -> ExpertTokens:
        if assets.is_added(run.id):
            out.parent.mkdir(parents=True, exist_ok=True)
            save(out, found)
        return found

    if trace.has_tokens:
        work = in_turn(lambda report: keep(experts.by_trace(trace, run.id, report)))
        registry().start(_key(run), work)
        return
    loaded, documents = library.model(run), library.documents([run.id])
    weights = Weights(loaded.path.name, weights_digest(loaded.path))

    def read(report: Report) -> ExpertTokens:
        hold = politely(loaded.lock)
        return keep(experts.by_model(loaded.live, documents, run.id, weights, report, hold))

    registry().start(_key(run), in_turn(read))


def all_effects(run: Run) -> Effects | None:
    """What the run loses without each of its experts; None where nobody has measured it.

    Raises ValueError for a file that cannot be read.
    """
    added = assets.is_added(run.id)
    named = f"expert-effects-{run.id}.npz"
    file = home.analysis_path(EFFECTS, [run.id]) if added else assets.analysis_path(named, run.id)
    if not file.exists():
        return None
    read = _load_effects(file, assets.content(file))
    _check_run(file, read, run)
    return read


def _check_run(file: Path, read: ExpertTokens | Effects, run: Run) -> None:
    """Raises ValueError for a file of another run, or with other experts than the recording has."""
    if read.run != run.id:
        raise ValueError(f"{file.name} is of the run {read.run}, not of {run.id}; it is not shown.")
    known = use(run.id)
    recorded = dict(zip(known.numbers, known.routed, strict=True))
    if any(recorded.get(n) != r for n, r in zip(read.numbers, read.routed, strict=True) if r):
        raise ValueError(
            f"{file.name} is of layers or experts that the recording of {run.id} lacks; make it "
            "again, or record the model again."
        )


def find_effect(run: Run, number: int, expert: int) -> Job | None:
    """The measurement of one expert, if anybody asked for it; its result is an `Effects`."""
    return registry().find(_effect_key(run, number, expert))


def measure_effect(run: Run, number: int, expert: int) -> None:
    """Read PER_DOMAIN documents of every domain with and without one expert, in the background.

    number: the layer's own. Raises Missing where the model or the documents are not here.
    """
    loaded, documents = library.model(run), library.documents([run.id])
    weights = Weights(loaded.path.name, weights_digest(loaded.path))

    def work(report: Report) -> Effects:
        return ablate_experts.effects(
            loaded.live,
            documents,
            run.id,
            weights,
            [(loaded.live.own_layers.index(number), expert)],
            PER_DOMAIN,
            experts.MAX_TOKENS,
            report,
            guard=politely(loaded.lock),
        )

    registry().start(_effect_key(run, number, expert), work)


def _effect_key(run: Run, number: int, expert: int) -> str:
    documents = assets.content(assets.documents_path([run.id]))
    return f"expert effect|{run.id}|{run.digest}|{documents}|{number}|{expert}"


def _key(run: Run) -> str:
    return f"expert tokens|{run.id}|{library.trace_key(run.id)}|{run.digest}"


@caches.for_all(8)
def _use(_trace: object, key: str) -> ExpertUse:
    return use_of(_trace)  # type: ignore[arg-type]


@caches.for_all(4)
def _load(file: Path, key: str) -> ExpertTokens:
    return load(file)


@caches.for_all(4)
def _load_effects(file: Path, key: str) -> Effects:
    return expert_effects.load(file)
