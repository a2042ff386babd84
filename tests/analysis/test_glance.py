"""Which document a first screen shows, and what its file keeps."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from emo_viz.__main__ import main
from emo_viz.analysis.curves import FULL, ROUTER_PROBABILITY
from emo_viz.analysis.glance import Glance, Glances, Text, load_glances, save_glances
from emo_viz.runs.glance import choose

TALE = "The boat left at dawn and no one on the quay could say where its captain meant to land. "
LIST = "finger bone, short; finger bone, long; finger bone, hand; finger bone, left; " * 3


def documents(texts: dict[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame({"id": list(texts), "text": list(texts.values())})
    return frame.assign(domain="d")


def curves(increase: dict[str, float]) -> pd.DataFrame:
    """Of one run: what a cut to 16 experts costs each document of 100 tokens, a token."""
    rows = [
        {"model": "m", "document": name, "method": method, "keep_k": keep, "tokens": 100,
         "loss_sum": 200.0 + 100.0 * cost}
        for name, each in increase.items()
        for method, keep, cost in ((FULL, 128, 0.0), (ROUTER_PROBABILITY, 16, each))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_of_documents_that_do_not_repeat_themselves_the_most_typical_is_shown():
    texts = {"list": LIST, "usual": TALE, "odd": TALE[::-1], "terms": LIST[5:]}
    costs = curves({"list": 0.2, "usual": 0.1, "odd": 0.9, "terms": 0.3})
    assert choose(documents(texts), costs) == "usual"


def test_without_curves_it_is_the_shortest_that_is_worth_a_look():
    texts = {"list": LIST[:200], "long": TALE * 3, "tale": TALE * 2, "a few words": TALE[:30]}
    assert choose(documents(texts), None) == "tale"
    assert choose(documents({"list": LIST}), None) == "list"


def test_losses_are_read_as_they_were_written(tmp_path: Path):
    losses = np.random.default_rng(0).random((2, 3), np.float32)
    one = Glance(
        pieces=("a", "b", "c"),
        layers=(0,),
        routed=(4,),
        shared=0,
        per_token=1,
        ranked_on=1,
        keeps=(1, 4),
        expert_ids=np.zeros((1, 3, 1), np.int64),
        weights=np.ones((1, 3, 1), np.float32),
        ranking=np.arange(4)[None],
        losses=losses,
    )
    save_glances(tmp_path / "glance.npz", Glances(Text("i", "d", "t", "", ""), {"m": one}))
    found = load_glances(tmp_path / "glance.npz").runs["m"].losses
    assert found is not None and (found == losses).all()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--document", "no document with the id 'nope'; its first ids are heldout-garden-0, "),
        ("--domain", "no documents of the domain 'nope'; it has court, garden, "),
    ],
)
def test_what_is_not_among_the_documents_is_said_with_what_is(tiny_assets, tmp_path, option, said):
    named = {
        "--models": tiny_assets / "checkpoints" / "emo-nano",
        "--documents": tiny_assets / "documents" / "documents.parquet",
        "--calibration": tiny_assets / "documents" / "calibration.parquet",
        "--out": tmp_path / "glance.npz",
        option: "nope",
    }
    arguments = [str(part) for pair in named.items() for part in pair]
    result = CliRunner().invoke(main, ["glance", *arguments])
    assert result.exit_code == 2 and said in result.stderr
    assert not list(tmp_path.iterdir())
