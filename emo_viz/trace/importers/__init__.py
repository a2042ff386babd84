"""Routing that other tools recorded: one reader for the files that they write.

    routing = read_routing(Path("answers.jsonl"), top_k=8, num_layers=48)
    routing.documents[0].expert_ids      # int32 [tokens, layers, k], -1: no expert

`kind` below is what `read_routing` takes; it is told from the content where it is not given.

| kind      | tool, file                              | holds                                  |
|-----------|-----------------------------------------|----------------------------------------|
| responses | vLLM answers, JSON or one a line:       |                                        |
|           | choices[i].routed_experts               | base64 .npy [tokens - 1, layers, k]    |
|           | prompt_routed_experts and that (0.21)   | nested lists, -1: prefix from a cache  |
|           | SGLang meta_info / sgl_ext              | base64 int32; give top_k, num_layers   |
|           | verifiers {encoding, dtype, shape, data}| base64 of that dtype                   |
| array     | vLLM 0.20 and others, .npy, .npz        | ids [tokens, layers, k]                |
| emo       | EMO's clustering folders                | logits [tokens, layers x experts]      |
| olmoe     | OLMoE c4_results.jsonl                  | exp_ids [tokens, k, layers]            |
| torch     | SGLang recorder .pt, stat               | logical_count [steps, layers, experts] |
|           | SGLang recorder .pt, per_token          | physical ids [layers, tokens, 8] + map |
|           | REAP observer .pt                       | expert_frequency [experts] a layer     |
| imatrix   | llama.cpp importance matrix, GGUF       | ...ffn_*_exps.weight.counts [experts]  |
| csv       | layer, expert, count                    | counts                                 |
|           | llama.cpp moe-trace: layer, expert      | a row for each choice, added up        |
| flame     | FLAME-MoE layer_NN.parquet, or folder   | indices, scores; a row a token         |
| megatron  | Megatron router_trace_rank*.jsonl       | top_indices; a record a layer          |
| moe-atlas | moe-atlas JSON                          | activations with gate weights          |

Nothing is ever unpickled: a .pt file that needs it is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from emo_viz.trace.importers.checks import checked
from emo_viz.trace.importers.counts import read_csv, read_imatrix, read_torch
from emo_viz.trace.importers.flame import read_flame
from emo_viz.trace.importers.folders import read_emo, read_olmoe
from emo_viz.trace.importers.imported import (
    ImportedClusters,
    ImportedDocument,
    ImportedRouting,
    Options,
    Source,
)
from emo_viz.trace.importers.recognise import recognised
from emo_viz.trace.importers.routed_experts import read_array, read_responses
from emo_viz.trace.importers.tokens import read_atlas, read_megatron

__all__ = ["READERS", "ImportedClusters", "ImportedDocument", "ImportedRouting", "read_routing"]

READERS: Mapping[str, Callable[[Path, Options], Source]] = {
    "responses": read_responses,
    "array": read_array,
    "emo": read_emo,
    "olmoe": read_olmoe,
    "torch": read_torch,
    "imatrix": read_imatrix,
    "csv": read_csv,
    "flame": read_flame,
    "megatron": read_megatron,
    "moe-atlas": read_atlas,
}


def read_routing(
    path: Path,
    *,
    text: str | Sequence[str] | Mapping[str, str] | None = None,
    kind: str | None = None,
    num_layers: int | None = None,
    top_k: int | None = None,
    num_experts: int | None = None,
) -> ImportedRouting:
    """Read a routing file of another tool, with its traps named in `notes`.

    text: of the documents, by their ids or in their order, for files that hold none. num_layers,
    top_k, num_experts: of the model, for files that do not say, and checked where they do.

    Raises ValueError, one sentence, if the file is of no known form, damaged, or cannot be right.
    """
    if kind is not None and kind not in READERS:
        raise ValueError(f"There is no importer {kind!r}; choose one of {', '.join(READERS)}.")
    if not path.exists():
        raise ValueError(f"There is no file or folder {path}; check the path.")
    options = Options(text=text, num_layers=num_layers, top_k=top_k, num_experts=num_experts)
    try:
        return checked(path, READERS[kind or recognised(path)](path, options), options)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path.") from error
