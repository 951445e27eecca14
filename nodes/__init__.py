"""The nodes: sockets, widgets, tooltips and errors. What they compute stands in models/."""

from .alignment import ReEditAlign
from .autoencoders import ReEditDecode, ReEditEncode, ReEditLoadREEDVAE
from .correction import ReEditCorrectDecoding
from .dinov2 import ReEditLoadDINOv2
from .drift import ReEditDriftMeter
from .emilie import ReEditGradientMask, ReEditLatentConditioning
from .epsilon import ReEditEpsilonDecode, ReEditLoadEpsilonVAE
from .guidance import ReEditAttentionMask, ReEditBlendedGuider, ReEditGuidanceMask
from .instruct import ReEditInstructGuider, ReEditInstruction
from .inversion import ReEditInversionReport, ReEditInversionSampler, ReEditInvert
from .merge_pixels import ReEditMergePixels
from .printed_update import ReEditPrintedUpdate
from .prompt_words import ReEditPromptWords
from .round_trip import ReEditRoundTripTest
from .rpiae import ReEditLoadRPiAE
from .semantic_drift import ReEditSemanticDrift
from .session import ReEditCheckout, ReEditCommit
from .session_files import ReEditLoadSession, ReEditSaveSession
from .stochastic_sampler import ReEditStochasticSampler
from .timeline import ReEditTimeline
from .training import ReEditTrainEpsilonVAE, ReEditTrainREED
from .training_rpiae import ReEditTrainRPiAE

NODES = (
    ReEditLoadREEDVAE,
    ReEditEncode,
    ReEditDecode,
    ReEditLatentConditioning,
    ReEditInstruction,
    ReEditInstructGuider,
    ReEditGradientMask,
    ReEditAlign,
    ReEditPrintedUpdate,
    ReEditInvert,
    ReEditInversionSampler,
    ReEditInversionReport,
    ReEditPromptWords,
    ReEditBlendedGuider,
    ReEditGuidanceMask,
    ReEditAttentionMask,
    ReEditStochasticSampler,
    ReEditMergePixels,
    ReEditCommit,
    ReEditCheckout,
    ReEditSaveSession,
    ReEditLoadSession,
    ReEditTimeline,
    ReEditDriftMeter,
    ReEditRoundTripTest,
    ReEditTrainREED,
    ReEditCorrectDecoding,
    ReEditLoadEpsilonVAE,
    ReEditEpsilonDecode,
    ReEditTrainEpsilonVAE,
    ReEditLoadRPiAE,
    ReEditLoadDINOv2,
    ReEditSemanticDrift,
    ReEditTrainRPiAE,
)
