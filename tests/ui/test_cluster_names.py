"""What a cluster is called on a map."""

import pytest

from emo_viz.ui.parts.maps import short_name


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("3: chess 97 % · , P a", "3: chess 97 %"),
        ("8: mixed · ( ␣ /", "8: ( ␣ /"),
        ("8: mixed", "8: mixed"),
        ("harbour", "harbour"),
        ("mixed", "mixed"),
    ],
)
def test_a_cluster_has_its_domains_or_else_its_words(name: str, short: str):
    assert short_name(name) == short
