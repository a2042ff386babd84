"""Domains and documents in words that a sentence can hold: plain text, from untrusted names."""

# Of the bundled documents; any other name is read as it is, its underscores as spaces.
_WORDS = {
    "code_go": "Go code",
    "code_javascript": "JavaScript code",
    "code_lisp": "Lisp code",
    "code_python": "Python code",
    "drama_poetry": "drama and poetry",
    "formal_math": "formal mathematics",
    "lang_de": "German",
    "lang_es": "Spanish",
    "lang_ja": "Japanese",
    "lang_ru": "Russian",
    "manpages": "manual pages",
    "poetry_zh": "Chinese poetry",
}
_ONE = {
    "licences": "a licence",
    "manpages": "a manual page",
    "recipes": "a recipe",
    "lang_de": "a German text",
    "lang_es": "a Spanish text",
    "lang_ja": "a Japanese text",
    "lang_ru": "a Russian text",
}


def in_words(domain: str) -> str:
    """ "JavaScript code" of "code_javascript"."""
    return _WORDS.get(domain) or domain.replace("_", " ").strip() or domain


def one_of(domain: str) -> str:
    """One document of a domain: "a recipe", "a text of Chinese poetry"."""
    return _ONE.get(domain) or f"a text of {in_words(domain)}"


def title(parent: str, document: str) -> str:
    """What a document is called: of a path the last part, without a name its id."""
    return parent.rstrip("/").rpartition("/")[2] or document
