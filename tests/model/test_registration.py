"""Importing the package is light, and enough for transformers' Auto classes, in either order."""

import subprocess
import sys

import pytest

from tests.model.helpers import tiny_model

LOADS = "print(type({auto}.from_pretrained(sys.argv[1])).__module__)"


def run(code, *arguments):
    command = [sys.executable, "-c", f"import sys\n{code}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_brings_neither_torch_nor_transformers():
    code = "import model, model.files, model.cli\nprint('torch' in sys.modules)\n"
    assert run(code + "print('transformers' in sys.modules)") == ["False", "False"]


@pytest.mark.parametrize(
    "imports",
    [
        "import model\nfrom transformers import AutoModelForCausalLM",
        "from transformers import AutoModelForCausalLM\nimport model",
        # brings the Auto classes in the middle of transformers' own imports, and of ours
        "import model\nfrom transformers.models.llama.modeling_llama import LlamaAttention",
        "import model.emo.attention",
    ],
    ids=["first", "second", "amid theirs", "amid ours"],
)
def test_auto_classes_know_the_model_whoever_is_imported_first(tmp_path, imports):
    tiny_model().save_pretrained(tmp_path)
    loads = "from transformers import AutoModelForCausalLM, AutoConfig\n"
    loads += LOADS.format(auto="AutoConfig") + "\n" + LOADS.format(auto="AutoModelForCausalLM")
    assert run(f"{imports}\n{loads}", tmp_path) == ["model.emo.config", "model.emo.modeling"]
