"""The subset ablation page: which way of choosing is said to be better, and what losses hold."""

import pickle
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from emo_viz.analysis.runs import Run, compare
from emo_viz.figures.kept import Shelf
from emo_viz.ui.ablation import against, export, live
from emo_viz.ui.ablation.parts import loss_change

STUDY = SimpleNamespace(runs=compare([Run("a", "A"), Run("b", "B")]))


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((0.2, 0.1), (0.3, 0.1), "Router probability chooses better here."),
        ((0.1, 0.2), (0.1, 0.3), "Importance chooses better here."),
        ((0.1, 0.1), (0.20001, 0.2), "Both choose alike here."),
        ((0.2, 0.1), (0.1, 0.2), "Router probability chooses better for"),
        ((0.2, 0.2), (0.1, 0.2), "Both choose alike for"),
    ],
)
def test_the_verdict_is_that_of_the_numbers_shown(first: tuple, second: tuple, said: str):
    assert against._verdict(STUDY, {"a": first, "b": second}).startswith(said)


def test_what_is_kept_of_a_loss_counts_its_experts_too(monkeypatch: pytest.MonkeyPatch):
    shelf = Shelf()
    monkeypatch.setattr(live, "_LOSSES", shelf)
    ids, calls = np.arange(10), []
    model = SimpleNamespace(losses=lambda ids, experts: calls.append(experts) or np.zeros(10))
    loaded = SimpleNamespace(key="k", lock=threading.Lock(), live=model)
    cuts = [tuple(tuple(range(kept)) for _ in range(48)) for kept in (128, 127, 128)]
    for cut in cuts:
        live.losses(loaded, ids, cut)
    assert calls == cuts[:2]
    for key, (made, size) in shelf._made.items():
        assert len(pickle.dumps((key, made))) < size + 1000


def test_every_token_of_a_character_is_told_apart_in_the_table_of_losses():
    values = {run: np.arange(3) for run in STUDY.runs.ids}
    text = SimpleNamespace(pieces=["", "=ก", ""], labels=["∅", "=ก", "⟨81⟩ of ก"])
    shown = SimpleNamespace(**vars(text), runs=STUDY.runs, full=values, cut=values)
    table = export.token_losses(shown)
    assert table["text"].tolist() == ['"=ก"', '""']
    assert table["label"].tolist() == ['"=ก"', '"⟨81⟩ of ก"'], "no formula of a spreadsheet"
    assert table["loss_nats_cut_B"].tolist() == [1, 2]


def test_a_change_is_that_of_the_numbers_beside_it():
    assert loss_change(4.3104, 4.3086) == "4.310 → 4.309 nats a token (-0.001)"
    assert loss_change(3.0, 3.25) == "3.000 → 3.250 nats a token (+0.250)"
