"""Documents of one domain: pages say what cannot be told of them, and show the rest."""

import shutil

import pandas as pd
import pytest

from emo_viz.runs.record import record
from emo_viz.server import assets
from tests.pages.opened import follow_link

RUN = "std-nano"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One bundled run with a recording of six documents of one domain."""
    place, bundled = tmp_path_factory.mktemp("one"), assets.APP_FOLDER / "assets"
    documents = pd.read_parquet(bundled / "documents" / "documents.parquet")
    some = documents[documents["domain"] == "recipes"].head(6)
    (place / "documents").mkdir()
    some.to_parquet(place / "documents" / "documents.parquet", index=False)
    shutil.copytree(bundled / "checkpoints" / RUN, place / "checkpoints" / RUN)
    record(bundled / "checkpoints" / RUN, some, place / "traces" / RUN)
    return place


def words(at):
    parts = [*at.markdown, *at.caption, *at.info, *at.warning]
    return "\n".join(part.value for part in parts)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("9_Domains", "no two to compare"),
        ("8_Experts", "All documents are of one domain"),
    ],
)
def test_nothing_is_compared_that_is_alone(folder, monkeypatch, page, said):
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(folder))
    at = follow_link(f"pages/{page}.py")
    assert said in words(at)
    assert "nan" not in words(at).lower().split()
