"""Peak memory of building a corpus, for texts of several sizes.

python -m benchmarks.corpus_memory --megabytes 10 --megabytes 80
python -m benchmarks.corpus_memory --megabytes 1 --long 60

Each is built in a process of its own, with the bundled tokenizer, of made-up documents of some
3,000 characters, and with --long of one more of so many megabytes; what is reported is the largest
resident memory of it, and of its workers apart.
"""

import io
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

TOKENIZER = Path("assets/checkpoints/emo-nano")
BUILD = """
import resource, sys
from model.data.__main__ import main
main(sys.argv[1:], standalone_mode=False)
own, workers = (resource.getrusage(who).ru_maxrss for who in
                (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(own, workers)
"""


def write_texts(path: Path, megabytes: int, long: int) -> int:
    """Documents of words that are each drawn anew, and one of `long` megabytes if that is not 0;
    returns how many."""
    draw = random.Random(0)
    syllables = ["ka", "lo", "mi", "ne", "ru", "ta", "vo", "shi", "pe", "qua", "zen", "dor"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(20_000)]

    def text() -> str:
        return "\n".join(" ".join(draw.choices(words, k=12)) for _ in range(40))

    number = size = 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            size += file.write(json.dumps({"text": text(), "parent": str(number)}) + "\n")
            number += 1
        if long:
            whole = io.StringIO()
            while whole.tell() < long * 1e6:
                whole.write(text() + "\n")
            file.write(json.dumps({"text": whole.getvalue(), "parent": "long"}) + "\n")
            number += 1
    return number


@click.command()
@click.option("--megabytes", type=int, multiple=True, default=(10, 40))
@click.option("--long", type=int, default=0, help="Megabytes of one more document.")
@click.option("--workers", type=int, default=1)
def main(megabytes: tuple[int, ...], long: int, workers: int) -> None:
    """Print the peak memory of a build of each size."""
    for size in megabytes:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "texts.jsonl"
            documents = write_texts(source, size, long)
            options = [
                "--documents",
                source,
                "--out",
                Path(folder) / "corpus",
                "--workers",
                workers,
            ]
            options += ["--tokenizer", TOKENIZER, "--max-bytes-per-domain", 10**12]
            command = [sys.executable, "-c", BUILD, "build", *map(str, options)]
            start = time.monotonic()
            result = subprocess.run(command, capture_output=True, check=True, text=True)
            own, children = map(int, result.stdout.split()[-2:])
            click.echo(
                f"{size} MB, {documents:,} documents: {own / 1024:,.0f} MB, workers "
                f"{children / 1024:,.0f} MB; {time.monotonic() - start:.0f} s"
            )


if __name__ == "__main__":
    main()
