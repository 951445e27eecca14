"""The nodes: sockets, widgets, tooltips and errors. What they compute stands in models/."""

from .autoencoders import ReEditDecode, ReEditEncode, ReEditLoadREEDVAE
from .drift import ReEditDriftMeter
from .emilie import ReEditGradientMask, ReEditLatentConditioning
from .inversion import ReEditInversionReport, ReEditInversionSampler, ReEditInvert
from .merge_pixels import ReEditMergePixels
from .session import ReEditCheckout, ReEditCommit
from .session_files import ReEditLoadSession, ReEditSaveSession
from .timeline import ReEditTimeline

NODES = (
    ReEditLoadREEDVAE,
    ReEditEncode,
    ReEditDecode,
    ReEditLatentConditioning,
    ReEditGradientMask,
    ReEditInvert,
    ReEditInversionSampler,
    ReEditInversionReport,
    ReEditMergePixels,
    ReEditCommit,
    ReEditCheckout,
    ReEditSaveSession,
    ReEditLoadSession,
    ReEditTimeline,
    ReEditDriftMeter,
)
