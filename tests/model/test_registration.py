"""Importing the package is light, and enough for transformers' Auto classes, in either order."""

import json
import subprocess
import sys

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


IN_ORDER = [
    "import model\nfrom transformers import AutoModelForCausalLM",
    "from transformers import AutoModelForCausalLM\nimport model",
    # brings the Auto classes in the middle of transformers' own imports, and of ours
    "import model\nfrom transformers.models.llama.modeling_llama import LlamaAttention",
    "import model.emo.attention",
]
# Each order in a process of its own, which has imported what all of them import before.
EACH = """
import json, os, torch
for code in json.loads(sys.argv[2]):
    if not os.fork():
        exec(code)
        os._exit(0)
    if os.wait()[1]:
        print("failed")
"""


def test_auto_classes_know_the_model_whoever_is_imported_first(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    loads = "from transformers import AutoModelForCausalLM, AutoConfig\n"
    loads += LOADS.format(auto="AutoConfig") + "\n" + LOADS.format(auto="AutoModelForCausalLM")
    codes = [f"{imports}\n{loads}\nsys.stdout.flush()" for imports in IN_ORDER]
    found = run(EACH, tmp_path, json.dumps(codes))
    assert found == ["model.emo.config", "model.emo.modeling"] * len(IN_ORDER)
