"""What a cluster is called on a map."""

import pytest

from emo_viz.ui.parts.maps import short_name, with_quotes


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


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("mixed · ␣␣␣ ␣␣␣␣␣␣␣", "mixed · spaces"),
        ('mixed · , . "_', 'mixed · “,” “.” “"_”'),
        ("manpages 61 % · ␣␣ the ␣␣␣␣", "manpages 61 % · spaces “the”"),
        ("recipes 88 % · ␣ cup f", "recipes 88 % · “␣” “cup” “f”"),
        ("chess 97 %", "chess 97 %"),
    ],
)
def test_tokens_have_quotes_and_spaces_a_word(name: str, readable: str):
    assert with_quotes(name) == readable
