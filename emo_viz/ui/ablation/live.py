"""Subset ablation page: one document under the subsets of every stop of the slider, run now.

Nothing here draws, but for an empty state.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis import ablation
from emo_viz.analysis.curves import GREEDY, OTHER_DOMAIN, RANDOM, Measured
from emo_viz.analysis.runs import Comparison
from emo_viz.figures.kept import Shelf
from emo_viz.figures.theme import LEAST_CHANGE
from emo_viz.server import commands, library
from emo_viz.server.library import LoadedModel
from emo_viz.server.measurements import documents_key
from emo_viz.ui.ablation import by_hand, worth
from emo_viz.ui.ablation.by_hand import Switch
from emo_viz.ui.ablation.page import BY_WORTH, WORTH_HERE, Choice, Study
from emo_viz.ui.parts.reading import tokens_of
from emo_viz.ui.parts.token_text import looks_like_code, text_labels
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.shell import missing
from emo_viz.ui.shell.words import escape_markdown

if TYPE_CHECKING:
    from model.run.inference import Continuation, Encoded
    from model.run.subset import ExpertSubset

NEW_TOKENS = 40
TEMPERATURE = 0.7  # the likeliest token alone sends small models round in circles
SEED = 0
WORSE = LEAST_CHANGE  # nats: from here on a token counts as worse
LARGE = 1_000_000_000  # parameters: of larger models only the stop that was chosen is run
Experts = tuple[tuple[int, ...], ...]
# Not Streamlit's cache: a move of the slider asks a dozen times, and that hashes every argument.
_LOSSES = Shelf(32 << 20)


@dataclass(frozen=True)
class Document:
    """The text shown: title and origin are plain text, `domain` is None for a text of one's own.

    cut_tokens: how many tokens of it were left out before it came here.
    """

    title: str
    text: str
    domain: str | None
    origin: str
    cut_tokens: int = 0

    @property
    def is_code(self) -> bool:
        """Whether it reads better in letters of one width."""
        return looks_like_code(self.text)


@dataclass(frozen=True, eq=False)
class Live:
    """One document under the subset of each run at each stop of the slider, computed now.

    pieces: texts of its T tokens, "" for EOS. labels: what each is called. dropped: tokens beyond
    the context. domain: whose calibration chose the experts. subsets: by run, at the slider's
    place. losses: by stop (keep-k of the first run, all experts among them) and run, [T] in nats,
    NaN at EOS. full: the same with all experts and nothing switched by hand. keep_k: the slider's
    place; most: all experts. switched: how many experts of each run are by hand.
    """

    runs: Comparison
    shown: Document
    token_ids: NDArray[np.int64]
    pieces: list[str]
    labels: list[str]
    dropped: int
    domain: str
    subsets: "dict[str, ExpertSubset]"
    losses: Mapping[int, Mapping[str, NDArray[np.float32]]]
    full: Mapping[str, NDArray[np.float32]]
    keep_k: int
    most: int
    switched: Mapping[str, int]

    @property
    def num_tokens(self) -> int:
        return len(self.pieces) - 1

    @property
    def cut(self) -> Mapping[str, NDArray[np.float32]]:
        """Losses with the slider's subset by run."""
        return self.losses[self.keep_k]

    def change(self, run: str, keep_k: int | None = None) -> NDArray[np.float32]:
        """Loss with the subset of a stop less the loss with all experts, by token [T]."""
        return self.losses[self.keep_k if keep_k is None else keep_k][run] - self.full[run]

    def increase(self, run: str, keep_k: int | None = None) -> float:
        """Mean change in nats a token at a stop."""
        return float(np.nanmean(self.change(run, keep_k)))

    def worse(self, run: str, keep_k: int | None = None) -> int:
        """Tokens whose loss rose by more than WORSE."""
        return int((self.change(run, keep_k) > WORSE).sum())


def notches(study: Study, choice: Choice, found: Measured | None) -> tuple[int, ...]:
    """The keep-ks at which the slider rests: those measured, or those that would be."""
    first = study.runs.first.id
    if found is not None:
        return tuple(found.kept(first, choice.method))
    usual = [k for k in ablation.default_keep(study.config(first)) if k >= study.fewest_kept]
    return tuple(sorted({*usual, study.num_experts}))


def _stops(study: Study, choice: Choice, found: Measured | None) -> list[int]:
    """Where the document is run: at every notch unless that would take long."""
    ends = {choice.keep_k, study.num_experts}
    chosen_anew = found is None and choice.method == GREEDY
    if chosen_anew or any(map(is_large, study.models)):
        return sorted(ends)
    return sorted({*ends, *notches(study, choice, found)})


def is_large(loaded: LoadedModel) -> bool:
    """Whether a pass of the model takes long."""
    return _size(loaded, loaded.key) > LARGE


@st.cache_resource(max_entries=16, show_spinner=False)
def _size(_loaded: LoadedModel, key: str) -> int:
    return sum(weight.numel() for weight in _loaded.model.parameters())


def compute_live(study: Study, choice: Choice, found: Measured | None) -> Live:
    """Every model on the chosen document, at every stop: a forward pass each, done now."""
    shown, models = _chosen_document(study, choice), study.models
    encoded = _encoded(study, shown)
    token_ids, pieces = encoded.token_ids, encoded.texts
    domain = shown.domain or choice.domain or _nearest(study, token_ids)
    stops = _stops(study, choice, found)
    try:
        subsets = {
            stop: {one.run: subset_at(study, one, domain, choice, stop) for one in models}
            for stop in stops
        }
    except ValueError as error:  # greedy at a new keep-k needs the calibration documents
        mend = commands.documents(library.documents_path())
        command = "" if choice.method == WORTH_HERE else mend
        missing.empty_state(escape_markdown(str(error)), command)
        missing.end()
    return Live(
        runs=study.runs,
        shown=shown,
        token_ids=token_ids,
        pieces=pieces,
        labels=text_labels(models.first.tokenizer, token_ids.tolist(), pieces),
        dropped=encoded.dropped,
        domain=domain,
        subsets=subsets[choice.keep_k],
        losses={
            stop: {
                one.run: losses(one, token_ids, experts_of(subsets[stop][one.run]))
                for one in models
            }
            for stop in stops
        },
        full={one.run: losses(one, token_ids, ()) for one in models},
        keep_k=choice.keep_k,
        most=study.num_experts,
        switched={one.run: len(switches_of(study, choice, one.run)) for one in models},
    )


def experts_of(subset: "ExpertSubset") -> Experts:
    """As the models take them: () for all."""
    return () if subset.method == "full" else subset.experts


def switches_of(study: Study, choice: Choice, run: str) -> list[Switch]:
    """What is switched by hand in one run."""
    return [each for each in choice.switched if each.slot == study.runs[run].slot]


def subset_at(
    study: Study, loaded: LoadedModel, domain: str, choice: Choice, stop: int
) -> "ExpertSubset":
    """`choose_subset` with what is switched by hand."""
    chosen = choose_subset(study, loaded, domain, choice, stop)
    return by_hand.applied(chosen, switches_of(study, choice, loaded.run), loaded.live.geometry)[0]


def _encoded(study: Study, shown: Document) -> "Encoded":
    most = min(one.live.most_tokens(ablation.MAX_TOKENS) for one in study.models)
    return tokens_of(study.models.first, shown.text, most)


def _chosen_document(study: Study, choice: Choice) -> Document:
    """The chosen document, or the visitor's own text as one."""
    if choice.is_own:
        return Document("Your own text", choice.text, None, "")
    row = library.row_of(study.documents, choice.document)
    return Document(
        title=row["parent"] or row["id"],
        text=row["text"],
        domain=row["domain"],
        origin=" · ".join((row["domain"], row["source"], row["licence"], f"id {row['id']}")),
        cut_tokens=int(row.get("cut_tokens", 0)),
    )


def _nearest(study: Study, token_ids: NDArray[np.int64]) -> str:
    """The domain whose favourite experts the first run uses most on a text, as many as a token."""
    first = study.models.first
    scores = expert_scores(first, first.key, token_ids)
    rankings = {domain: ranking(study, first.run, domain) for domain in study.domains}
    return ablation.nearest_domain(scores, rankings, first.live.geometry.num_routed_per_tok)


@st.cache_resource(max_entries=256, show_spinner=False)
def expert_scores(
    _loaded: LoadedModel, key: str, token_ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean router probability of each routed expert on a document [L, R]."""
    with run_exclusive(_loaded):
        return _loaded.live.scores([token_ids])


def choose_subset(
    study: Study, loaded: LoadedModel, domain: str, choice: Choice, stop: int
) -> "ExpertSubset":
    """The subset of one model for a domain at a stop of the slider.

    Only a greedy one at a new keep-k asks the model.
    """
    from model.run.subset import ExpertSubset, full_subset, random_subset

    config = loaded.live.geometry
    keep_k = study.keep_of(loaded.run, stop)
    if keep_k == max(study.experts[loaded.run]):
        return full_subset(config)
    if choice.method == RANDOM:
        return random_subset(config, keep_k, 0, loaded.live.groups_at(keep_k))
    if choice.method == GREEDY:
        greedy = study.curves.info["greedy"][loaded.run][domain] if study.curves else {}
        known = greedy.get(str(keep_k))
        if known is None:
            return _greedy(loaded, loaded.key, documents_key(), domain, keep_k)
        return ExpertSubset(tuple(map(tuple, known)), GREEDY, study.calibration_ids(domain), keep_k)
    if choice.method in BY_WORTH:
        return _worthiest(study, loaded, domain, choice, keep_k)
    source = (study.other(domain) or domain) if choice.method == OTHER_DOMAIN else domain
    how = (config, study.calibration_ids(source), loaded.live.groups_at(keep_k))
    return ablation.ranked_subset(ranking(study, loaded.run, source), keep_k, *how)


def _worthiest(
    study: Study, loaded: LoadedModel, domain: str, choice: Choice, keep_k: int
) -> "ExpertSubset":
    """By importance, on the document shown or on the calibration documents of a domain."""
    from model.run.subset import subset_from_scores

    if choice.method == WORTH_HERE:
        documents = [_encoded(study, _chosen_document(study, choice)).token_ids]
        ids: tuple[str, ...] = () if choice.is_own else (choice.document,)
    else:
        texts = calibration(loaded, loaded.key, documents_key())[domain]
        documents, ids = list(texts.documents), texts.ids
    scores_LR = worth.of(loaded, documents)
    how = (loaded.live.geometry, choice.method, ids, loaded.live.groups_at(keep_k))
    return subset_from_scores(scores_LR, keep_k, *how)


def ranking(study: Study, run: str, domain: str) -> NDArray[np.int64]:
    """Routed experts of every layer by falling router probability on a domain: [L, R].

    -1 where a layer has fewer.
    """
    if study.curves is None:
        loaded = study.models[run]
        return _ranking(loaded, loaded.key, documents_key(), domain)
    return np.asarray(study.curves.info["ranking"][run][domain])


@st.cache_resource(max_entries=256, show_spinner="Reading the calibration documents …")
def _ranking(_loaded: LoadedModel, key: str, documents: str, domain: str) -> NDArray[np.int64]:
    texts = calibration(_loaded, key, documents)[domain]
    with run_exclusive(_loaded):
        scores = _loaded.live.scores(texts.documents)
    return ablation.ranked(scores, _loaded.live.geometry)


@st.cache_resource(max_entries=64, show_spinner="Choosing experts layer by layer …")
def _greedy(
    _loaded: LoadedModel, key: str, documents: str, domain: str, keep_k: int
) -> "ExpertSubset":
    texts = calibration(_loaded, key, documents)[domain]
    with run_exclusive(_loaded):
        groups = _loaded.live.groups_at(keep_k)
        return _loaded.live.select(texts.documents, keep_k, "greedy", texts.ids, groups)


@st.cache_resource(max_entries=4, show_spinner=False)
def calibration(_loaded: LoadedModel, key: str, documents: str) -> dict[str, ablation.Texts]:
    """The calibration documents of every domain, tokenised."""
    texts = ablation.tokenise(library.calibration_documents(), encode(_loaded))
    return {domain: ablation.first_texts(some) for domain, some in texts.items()}


def encode(loaded: LoadedModel) -> ablation.Encode:
    """How a model's texts become tokens here: as long as the curves measure them."""
    most = loaded.live.most_tokens(ablation.MAX_TOKENS)
    return lambda text: loaded.live.encode(text, most)


def losses(
    loaded: LoadedModel, token_ids: NDArray[np.int64], experts: Experts
) -> NDArray[np.float32]:
    """Losses of one document [T]; `experts` are those kept in each layer, () for all."""
    key = loaded.key, token_ids.tobytes(), _digest(experts)
    found: NDArray[np.float32] | None = _LOSSES.find(key)
    if found is None:
        with run_exclusive(loaded):
            found = _LOSSES.find(key)  # another visitor may have asked for the same meanwhile
            if found is None:
                found = loaded.live.losses(token_ids, experts)
                found.flags.writeable = False
                _LOSSES.keep(key, found, found.nbytes + token_ids.nbytes)
    return found


def _digest(experts: Experts) -> str:
    """Names experts in a few bytes: of a large model the ids themselves outweigh what is kept of
    them, and Streamlit would walk through them one by one."""
    return hashlib.sha256(repr(experts).encode()).hexdigest()


def continuation(
    loaded: LoadedModel, prompt_ids: NDArray[np.int64], experts: Experts
) -> "Continuation":
    """NEW_TOKENS tokens after a prompt, drawn with a fixed seed; `experts` as in `losses`."""
    return _continuation(loaded, loaded.key, prompt_ids, experts, _digest(experts))


@st.cache_resource(max_entries=1024, show_spinner=False)
def _continuation(
    _loaded: LoadedModel,
    key: str,
    prompt_ids: NDArray[np.int64],
    _experts: Experts,
    digest: str,
) -> "Continuation":
    with run_exclusive(_loaded):
        return _loaded.live.go_on(prompt_ids, NEW_TOKENS, _experts, TEMPERATURE, SEED)
