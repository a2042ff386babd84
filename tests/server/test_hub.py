"""A checkpoint of the hub arrives with its megabytes told, and can be stopped on the way."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emo_viz.server import hub
from emo_viz.server.jobs import Cancelled

FILES = {
    "config.json": 1_000_000,
    "model-1.safetensors": 5_000_000,
    "model-2.safetensors": 3_000_000,
}


class Hub:
    """Stands for the hub: files arrive in pieces of a megabyte, and lie in a cache afterwards."""

    def __init__(self, cached: set[str]) -> None:
        self.cached, self.asked = cached, list[str]()

    def snapshot_download(self, name: str, **how: Any) -> Any:
        if not how.get("dry_run"):
            return f"/cache/{name}"
        return [
            SimpleNamespace(
                filename=file,
                file_size=size,
                commit_hash="c0",
                will_download=file not in self.cached,
            )
            for file, size in FILES.items()
        ]

    def hf_hub_download(self, name: str, file: str, revision: str, tqdm_class: Any) -> None:
        assert revision == "c0"
        self.asked.append(file)
        with tqdm_class(total=FILES[file], desc=file) as bar:
            for _ in range(FILES[file] // 1_000_000):
                bar.update(1_000_000)
        self.cached.add(file)


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub({"config.json"})
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.snapshot_download)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", made.hf_hub_download)
    return made


def test_megabytes_are_told_as_they_arrive_those_in_the_cache_among_them(lent: Hub):
    told = list[tuple[int, int]]()
    folder = hub.fetch("owner/model", lambda done, total: told.append((done, total)))
    assert folder == Path("/cache/owner/model")
    assert lent.asked == ["model-1.safetensors", "model-2.safetensors"]
    assert told[-1] == (9, 9) and {total for _, total in told[1:]} == {9}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {2, 3, 4, 5, 6, 7, 8, 9} <= {done for done, _ in told}


def test_a_fetch_that_is_stopped_ends_there_and_later_goes_on(lent: Hub):
    def stopping(done: int, total: int) -> None:
        if done >= 7:
            raise Cancelled

    with pytest.raises(Cancelled):
        hub.fetch("owner/model", stopping)
    assert lent.cached == {"config.json", "model-1.safetensors"}
    lent.asked.clear()
    hub.fetch("owner/model", lambda done, total: None)
    assert lent.asked == ["model-2.safetensors"]


def test_bytes_that_arrive_twice_count_once(lent: Hub, monkeypatch: pytest.MonkeyPatch):
    def again(name: str, file: str, revision: str, tqdm_class: Any) -> None:
        for _ in range(2):  # a connection that broke off begins anew
            tqdm_class(total=FILES[file]).update(FILES[file])

    monkeypatch.setattr("huggingface_hub.hf_hub_download", again)
    told = list[int]()
    hub.fetch("owner/model", lambda done, total: told.append(done))
    assert max(told) == 9


def test_without_network_what_is_whole_in_the_cache_will_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def no_network(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    (tmp_path / "config.json").write_text("{}")
    cached = str(tmp_path / "config.json")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: cached)
    with pytest.raises(ValueError, match="could not be had from the Hugging Face hub"):
        hub.fetch("owner/model", lambda done, total: None)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert hub.fetch("owner/model", lambda done, total: None) == tmp_path
