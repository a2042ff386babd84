"""Recording a model over documents to a folder on disk, and reading it back without the model."""

from emo_viz.trace.absent import Absent
from emo_viz.trace.reader import Trace

__all__ = ["Absent", "Trace"]
