"""Domains and documents in words."""

import pandas as pd

from emo_viz.server.assets import APP_FOLDER
from emo_viz.ui.shell import subjects


def test_the_bundled_domains_are_words():
    table = pd.read_parquet(APP_FOLDER / "assets" / "documents" / "documents.parquet")
    words = {domain: subjects.in_words(domain) for domain in set(table["domain"])}
    assert len(set(words.values())) == len(words)
    assert not [each for each in words.values() if "_" in each]
    assert words["code_javascript"] == "JavaScript code" and words["lang_ja"] == "Japanese"
    assert {*subjects._WORDS, *subjects._ONE} <= words.keys()


def test_an_unknown_domain_is_read_as_it_is():
    assert subjects.in_words("court_records") == "court records"
    assert subjects.in_words("_") == "_"
    assert subjects.one_of("court_records") == "a text of court records"
    assert subjects.one_of("recipes") == "a recipe"


def test_a_document_is_called_by_the_last_part_of_a_path():
    assert subjects.title("usr/lib/python3.11/smtplib.py", "1") == "smtplib.py"
    assert subjects.title("", "1") == subjects.title("/", "1") == "1"
    assert subjects.title("Pounded Yam", "1") == "Pounded Yam"
