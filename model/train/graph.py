"""A training step's two passes as a CUDA graph: recorded once, then started as one piece.

A small model's step is a thousand launches of a few microseconds each, and Python takes longer to
launch them than the GPU to run them. The numbers are those of the plain step, to the bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.emo.documents import DocumentRouting
from model.emo.modeling import EmoForCausalLM
from model.train import parallel
from model.train.batches import Batch
from model.train.presets import Preset
from model.train.step import Reported, backward

WARM_UPS = 3
DOCUMENTS = 8  # a recording serves batches whose most documents a row round up to the same multiple


@dataclass(frozen=True)
class Recorded:
    """One recording: its graph, its inputs to be filled, and where its results appear."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    segments_BT: Tensor
    reported: Reported
    gradients: list[Tensor | None]


class GraphedBackward:
    """`step.backward` by replay; records anew for each shape of batch."""

    def __init__(self) -> None:
        self._recorded: dict[tuple[int, ...], Recorded] = {}

    def __call__(
        self,
        model: EmoForCausalLM,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        preset: Preset,
    ) -> Reported:
        """As `step.backward`. Raises ValueError for labels that are none.

        What it returns, and the gradients, are overwritten by the next call.
        """
        if int(batch.labels_BT.min()) < 0:
            raise ValueError("A recorded step has no ignored labels; train without a graph.")
        documents = model.document_routing(batch.input_ids_BT, batch.pool_sizes_LBD)
        batch = _padded(batch)
        shape = (*batch.input_ids_BT.shape, batch.pool_sizes_LBD.shape[2])
        if shape not in self._recorded:
            self._recorded[shape] = _record(model, optimizer, batch, documents, preset)
        recorded = self._recorded[shape]
        _fill(recorded, batch, documents)
        recorded.graph.replay()
        for parameter, gradient in zip(model.parameters(), recorded.gradients, strict=True):
            parameter.grad = gradient
        return recorded.reported


def can_record(model: EmoForCausalLM) -> bool:
    """Whether steps of this model can be recorded: one process, on a GPU."""
    return model.device.type == "cuda" and parallel.world_size() == 1


def _padded(batch: Batch) -> Batch:
    """With pool sizes for documents that are not there: rows have few or many, graphs one shape."""
    sizes_LBD = batch.pool_sizes_LBD
    more = -sizes_LBD.shape[2] % DOCUMENTS
    return batch._replace(pool_sizes_LBD=torch.nn.functional.pad(sizes_LBD, (0, more), value=1))


def _fill(recorded: Recorded, batch: Batch, documents: DocumentRouting) -> None:
    given = (*batch, documents.segments_BT)
    for buffer, value in zip((*recorded.batch, recorded.segments_BT), given, strict=True):
        buffer.copy_(value, non_blocking=True)


def _record(
    model: EmoForCausalLM,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    documents: DocumentRouting,
    preset: Preset,
) -> Recorded:
    """Run the passes a few times, so that all is compiled and allocated, then once recording."""
    mine, segments_BT = batch.to(model.device), documents.segments_BT.to(model.device)
    pooled = documents.pool_sizes_LBD is not None

    def passes() -> Reported:
        found = DocumentRouting(segments_BT, mine.pool_sizes_LBD if pooled else None)
        return backward(model, optimizer, mine, preset, found)

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            passes()
    torch.cuda.current_stream().wait_stream(aside)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        reported = passes()
    return Recorded(graph, mine, segments_BT, reported, [p.grad for p in model.parameters()])
