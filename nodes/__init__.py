"""The nodes: sockets, widgets, tooltips and errors. What they compute stands in models/."""

from .autoencoders import ReEditDecode, ReEditEncode, ReEditLoadREEDVAE
from .drift import ReEditDriftMeter
from .emilie import ReEditGradientMask, ReEditLatentConditioning
from .session import ReEditCommit, ReEditMergePixels, ReEditTimeline

NODES = (
    ReEditLoadREEDVAE,
    ReEditEncode,
    ReEditDecode,
    ReEditLatentConditioning,
    ReEditGradientMask,
    ReEditMergePixels,
    ReEditCommit,
    ReEditTimeline,
    ReEditDriftMeter,
)
