"""The steps between the Kafka source and the sinks: PTransforms over Arrow batches."""

from beam_pipeline.config import ValidationRules, Windowing
from beam_pipeline.transforms.batches import BatchTransform
from beam_pipeline.transforms.dead_letters import DeadLetters
from beam_pipeline.transforms.enrich import Enrich
from beam_pipeline.transforms.normalize import Normalize
from beam_pipeline.transforms.outputs import DeadLetterCollector, Outputs
from beam_pipeline.transforms.user import Transform, user_transforms
from beam_pipeline.transforms.validate import Validate
from beam_pipeline.transforms.windowing import WindowBatches, WindowDeadLetters

__all__ = [
    "BatchTransform",
    "DeadLetterCollector",
    "DeadLetters",
    "Enrich",
    "Normalize",
    "Outputs",
    "Transform",
    "Validate",
    "ValidationRules",
    "WindowBatches",
    "WindowDeadLetters",
    "Windowing",
    "user_transforms",
]
