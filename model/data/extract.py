"""Reads the texts out of an unpacked package: one small generator per kind of file.

Each extractor takes the package's folder and yields (parent, text) or (parent, text, group) in an
order that mixes the package, because a domain takes only the first few megabytes of it.
"""

import csv
import email
import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from email.message import Message
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from model.data.documents import CorpusError, digest


class Extract(NamedTuple):
    """A text with its parent; `group` ties kindred texts together, empty means the parent."""

    parent: str
    text: str
    group: str = ""


Extractor = Callable[[Path], Iterator[Extract]]
PAGE = 900  # characters, of poems


def mixed(items: Iterable[Extract]) -> list[Extract]:
    """The texts in the order of a hash of their names."""
    return sorted(items, key=lambda item: digest(item.group, item.parent))


def mixed_files(root: Path, pattern: str) -> list[Path]:
    """Plain files below `root` in the order of a hash of their paths."""
    files = (path for path in root.rglob(pattern) if path.is_file() and not path.is_symlink())
    return sorted(files, key=lambda path: digest(path.relative_to(root)))


def stem(name: str) -> str:
    """The last two words of a term, which kindred terms share."""
    return " ".join(re.findall(r"[a-z]{4,}", name.lower())[-2:]) or name


def read(path: Path) -> str:
    """The text of a UTF-8 or Windows-1252 file, gzip or not."""
    data = path.read_bytes()
    return _decode(gzip.decompress(data) if path.suffix in (".gz", ".dz") else data)


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def ontology(*files: str) -> Extractor:
    """Terms of the named .obo files."""

    def extract(root: Path) -> Iterator[Extract]:
        text = "\n\n".join(read(next(root.rglob(file))) for file in files)
        names = dict(re.findall(r"^id: (\S+)\nname: (.*)$", text, re.M))
        blocks = (block for block in text.split("\n\n") if block.startswith("[Term]"))
        terms = (_term(block, names) for block in blocks)
        yield from mixed(term for term in terms if term)

    return extract


def _term(block: str, names: dict[str, str]) -> Extract | None:
    fields: dict[str, list[str]] = defaultdict(list)
    for line in block.splitlines()[1:]:
        key, _, value = line.partition(": ")
        quoted = QUOTED.match(value)
        plain = value.split(" ! ")[0].split(" {")[0]
        fields[key].append(re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else plain)
    if "is_obsolete" in fields or "def" not in fields:
        return None
    name = fields["name"][0]
    also = [value for value in dict.fromkeys(fields["synonym"]) if "InChI" not in value]
    parents = [names.get(key, key) for key in fields["is_a"]]
    pairs = (value.split(" ", 1) for value in fields["relationship"])
    links = [f"{kind.replace('_', ' ')} {names.get(key, key)}" for kind, key in pairs]
    lines = [name, "", *fields["def"], *fields["comment"], ""]
    lines += [f"Also: {'; '.join(also)}."] if also else []
    lines += [f"Is a kind of: {'; '.join(parents)}."] if parents else []
    lines += [f"Related: {'; '.join(links)}."] if links else []
    return Extract(name, "\n".join(lines), stem(name))


def phenotypes(root: Path) -> Iterator[Extract]:
    """Human Phenotype Ontology: its terms, and one document a disease with its signs."""
    yield from mixed([*ontology("hp.obo")(root), *_diseases(root)])


def _diseases(root: Path) -> Iterator[Extract]:
    obo = read(next(root.rglob("hp.obo")))
    names = dict(re.findall(r"^id: (HP:\d+)\nname: (.*)$", obo, re.M))
    signs: dict[str, dict[str, str]] = defaultdict(dict)
    for line in read(next(root.rglob("phenotype.hpoa"))).splitlines():
        row = line.split("\t")
        # A sign with the qualifier NOT was looked for and is absent.
        if len(row) > 7 and row[3] in names and row[2] != "NOT":
            often = f" ({names.get(row[7], row[7])})" if row[7] else ""
            signs[row[1]][names[row[3]]] = often
    for disease, found in signs.items():
        listed = "\n".join(f"- {name}{often}" for name, often in sorted(found.items()))
        yield Extract(disease, f"{disease}\n\nClinical features:\n{listed}", _head(disease))


def _head(name: str) -> str:
    return " ".join(name.lower().split()[:2])


def usenet(*groups: str) -> Extractor:
    """Posts of the groups in the two tables of 20 Newsgroups; a thread shares its first words."""

    def extract(root: Path) -> Iterator[Extract]:
        rows = (line for path in root.rglob("20news*.tab") for line in read(path).splitlines())
        posts = (text for name, _, text in (row.partition("\t") for row in rows) if name in groups)
        yield from mixed(Extract(digest(post)[:12], post, _head(post)) for post in posts)

    return extract


def reuters(root: Path) -> Iterator[Extract]:
    """One newswire story an item: title and body without the wire's own marks."""
    for path in mixed_files(root, "reuters-*.json"):
        for item in json.loads(read(path)):
            body = re.sub(r"\s*\bREUTER\b\s*$", "", item.get("body", ""), flags=re.I | re.M)
            title = unescape(item.get("title", "")).strip()
            text = re.sub(r"(?<!\n)\n(?! )", " ", unescape(body))
            yield Extract(digest(text)[:12], f"{title}\n\n{text}", title)


ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)*")


def mails(root: Path) -> Iterator[Extract]:
    """Wanted mails: subject and plain body, addresses masked; a thread shares its subject."""
    for path in mixed_files(root, "*ham*/*.txt"):
        message = email.message_from_bytes(path.read_bytes())
        body = _plain_body(message)
        subject = " ".join(str(message.get("Subject", "")).split())
        if body and "=?" not in subject:
            thread = re.sub(r"^((re|fwd?)\b\S*|\[.*?\]|\s)+", "", subject.lower())
            text = ADDRESS.sub("<address>", f"Subject: {subject}\n\n{body}")
            yield Extract(path.stem, text, thread)


def _plain_body(message: Message) -> str:
    for part in message.walk():
        if part.get_content_type() == "text/plain":
            data = part.get_payload(decode=True)
            return _decode(data) if isinstance(data, bytes) else ""
    return ""


def plain_files(pattern: str) -> Extractor:
    """Whole text files, one parent each."""

    def extract(root: Path) -> Iterator[Extract]:
        for path in mixed_files(root, pattern):
            yield Extract(path.stem, read(path))

    return extract


def austen(root: Path) -> Iterator[Extract]:
    """Chapters of the six novels, read from R's serialised string vectors."""
    data = next(root.rglob("Rdata.rdb")).read_bytes()
    chapters = []
    while data:
        inflate = zlib.decompressobj()
        novel = "\n".join(_r_strings(inflate.decompress(data[4:])))
        data = inflate.unused_data
        title, *rest = re.split(r"\n(?=CHAPTER |Chapter )", novel)
        name = title.strip().splitlines()[0].title()
        chapters += [Extract(f"{name} {number}", text) for number, text in enumerate(rest, 1)]
    yield from mixed(chapters)


def _r_strings(data: bytes) -> Iterator[str]:
    """Strings of a character vector: each is a type word, a length and the bytes, big-endian."""
    place = data.index(b"\0\0\0\x10", 14) + 8
    while data[place : place + 2] == b"\0\x04":
        (size,) = struct.unpack_from(">i", data, place + 4)
        yield data[place + 8 : place + 8 + max(size, 0)].decode("utf-8", errors="replace")
        place += 8 + max(size, 0)


def tales(root: Path) -> Iterator[Extract]:
    """Tales of Grimm and Andersen, one a row."""
    for path in (*root.rglob("grimm-tales.tab"), *root.rglob("andersen.tab")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))[2:]
        yield from (Extract(row["Title"], f"{row['Title']}\n\n{row['Content']}") for row in rows)


MARKUP = re.compile(r"<note\b.*?</note>|<title type=\"x-ms\">.*?</title>|<[^>]+>", re.S)


def sword(root: Path) -> Iterator[Extract]:
    """Chapters of a SWORD module: deflated blocks, listed in a table of 12-byte records."""
    chapters = []
    for table in sorted(root.rglob("*.[bc]zs")):
        blocks = table.with_suffix(table.suffix[:-1] + "z").read_bytes()
        for offset, size, _ in struct.iter_unpack("<III", table.read_bytes()):
            block = zlib.decompress(blocks[offset : offset + size]).decode(errors="replace")
            chapters += re.split(r'(?=<chapter n="\d+" osisID)', block)
    found = (re.match(r'<chapter n="\d+" osisID="([\w.]+)"', text) for text in chapters)
    pairs = zip(found, chapters, strict=True)
    yield from mixed(Extract(match[1], _verses(text)) for match, text in pairs if match)


def _verses(text: str) -> str:
    text = re.sub(r'<(?:/title|div [se]ID="[^"]*" type="x-p"/|lb [^>]*|/l|l [^>]*)>', "\n", text)
    lines = (" ".join(line.split()) for line in unescape(MARKUP.sub("", text)).splitlines())
    return "\n\n".join(line for line in lines if line)


def poems(root: Path) -> Iterator[Extract]:
    """Classical Chinese verse: poems of one author packed until they make a page."""
    files = [*mixed_files(root, "quantangshi/poet.*.json"), *mixed_files(root, "ci.song.*.json")]
    for path in files:
        by_author: dict[str, list[str]] = defaultdict(list)
        for poem in json.loads(read(path)):
            lines = [poem.get("title") or poem.get("rhythmic", ""), *poem["paragraphs"]]
            by_author[poem["author"]].append("\n".join(lines))
        for author, texts in by_author.items():
            for number, page in enumerate(_pages(texts)):
                yield Extract(f"{author} {path.stem} {number}", page, author)


def _pages(texts: list[str]) -> Iterator[str]:
    page = ""
    for text in texts:
        page += text + "\n\n"
        if len(page) >= PAGE:
            yield page
            page = ""
    yield page


def recipes(root: Path) -> Iterator[Extract]:
    """One recipe a document: title, ingredients, steps."""
    for item in json.loads(read(next(root.rglob("recipes_en-us.json")))).values():
        ingredients = "\n".join(f"- {line}" for line in item["ingredients"])
        steps = "\n".join(f"{number}. {line}" for number, line in enumerate(item["steps"], 1))
        yield Extract(item["title"], f"{item['title']}\n\n{ingredients}\n\n{steps}")


def statistics(root: Path) -> Iterator[Extract]:
    """One table of Statistics Canada a document: its title and footnotes."""
    titles = json.loads(read(next(root.rglob("basic_info.json"))))
    notes = json.loads(read(next(root.rglob("footnotes.json"))))
    for key in sorted(notes, key=digest):
        lines = dict.fromkeys(MARKUP.sub("", note["footnotesEn"]) for note in notes[key])
        title = titles[key]["title_en"]
        yield Extract(key, "\n\n".join([title, *lines]), _head(title))


def licences(root: Path) -> Iterator[Extract]:
    """Licence texts; the first word of the file name is the family."""
    for path in mixed_files(root, "licenses/*.json"):
        item = json.loads(read(path))
        text = f"{item['name']}\n\n{item['licenseText']}"
        yield Extract(path.stem, text, path.stem.split("-")[0])


class _PageText(HTMLParser):
    """Text of a page: block elements become paragraphs, marked elements are left out."""

    BLOCKS = re.compile(r"p|div|li|dt|dd|tr|h[1-6]|pre|blockquote|br|table")
    HIDDEN = re.compile(r"script|style|nav|head|header|footer|aside|button")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden: list[str] = []
        self.in_pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        variant = "hidden" in fields and not str(fields.get("id")).startswith("default")
        if self.HIDDEN.fullmatch(tag) or (tag == "span" and (self.hidden or variant)):
            self.hidden.append(tag)
        if self.BLOCKS.fullmatch(tag):
            self.parts.append("\n\n" if tag != "li" else "\n\n- ")
        self.in_pre |= tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self.hidden and self.hidden[-1] == tag:
            self.hidden.pop()
        if self.BLOCKS.fullmatch(tag):
            self.parts.append("\n\n")
        self.in_pre &= tag != "pre"

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data if self.in_pre else re.sub(r"\s+", " ", data))


# A paragraph with two of these is English; help pages are translated in part only.
ENGLISH = re.compile(r"\b(?:[Tt]he|of|and|is|are|with|[Tt]his|to|Choose|(?<=Choose )\w+)\b")


def pages(pattern: str, start: str, stop: str, translated: bool = False) -> Extractor:
    """HTML pages between the first `start` and the next `stop`, without English if translated."""

    def extract(root: Path) -> Iterator[Extract]:
        for path in mixed_files(root, pattern):
            parser = _PageText()
            parser.feed(read(path).partition(start)[2].partition(stop)[0])
            text = "\n".join(line.strip(" ") for line in "".join(parser.parts).split("\n"))
            paragraphs = re.split(r"\n\n+", re.sub(r"^-\s+", "- ", text, flags=re.M))
            if translated:
                paragraphs = [item for item in paragraphs if len(ENGLISH.findall(item)) < 2]
            yield Extract(str(path.relative_to(root).with_suffix("")), "\n\n".join(paragraphs))

    return extract


def man_pages(root: Path) -> Iterator[Extract]:
    """Manual pages as `man` sets them, without overstrikes, page head and foot."""
    if shutil.which("man") is None:
        raise CorpusError("man is not on this machine, so the manual pages cannot be set.")
    environment = os.environ | {"MANWIDTH": "100", "LC_ALL": "C.UTF-8"}
    for path in mixed_files(root, "man/man[1-9]/*.gz"):
        command = ["man", "--no-hyphenation", "--no-justification", "-Tutf8", str(path)]
        page = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        lines = re.sub(".\x08", "", page.stdout).strip().splitlines()[1:-1]
        yield Extract(path.stem, "\n".join(lines))


def code(pattern: str, skip: str, comment: str) -> Extractor:
    """Source files without their leading comment; paths that match `skip` are left out."""

    def extract(root: Path) -> Iterator[Extract]:
        for path in mixed_files(root, pattern):
            text = re.sub(rf"\A(\s*{comment})+", "", read(path))
            name = str(path.relative_to(root))
            if not re.search(skip, name) and max(map(len, text.split("\n"))) < 400:
                yield Extract(name, text)

    return extract


SECTION = re.compile(r"\$\(\s*\n(?=(?:#\*|=-|-\.)[#*=\-.]{20})")
# Compressed proofs, typesetting tables; then credits and the rulers around headings.
PROOFS = re.compile(r"[$@]=.*?(?=[$@]\.)|\$\(\s*\$t.*?\$\)", re.S)
CREDITS = re.compile(r"\((?:Contributed|Revised|Proof \w+) [^)]*\)|^[#*=.\-]{60,}\n(?:\$\))?", re.M)


def metamath(root: Path) -> Iterator[Extract]:
    """Sections of the databases: headings, comments and statements without their proofs."""
    sections = []
    # peano.mm, the one that starts with a p, is under another licence than the rest.
    for path in sorted(root.rglob("[!p]*.mm")):
        parts = enumerate(SECTION.split(PROOFS.sub("", read(path)))[1:])
        sections += [Extract(f"{path.stem} {n}", CREDITS.sub("", part)) for n, part in parts]
    yield from mixed(sections)


def chess(root: Path) -> Iterator[Extract]:
    """Chess problems with their solutions, one a document."""
    problems = []
    for path in sorted(root.rglob("*.olv")):
        records = enumerate(read(path).split("\n---\n"))
        problems += [Extract(f"{path.stem} {number}", text) for number, text in records]
    yield from mixed(problems)


def dictionary(root: Path) -> Iterator[Extract]:
    """Entries of a dictd file: a headword starts in the first column after a blank line."""
    text = read(next(root.rglob("*.dict.dz")))
    entries = re.split(r"\n\n(?=\S)", text)
    yield from mixed(Extract(entry.split("\n")[0], entry) for entry in entries)
