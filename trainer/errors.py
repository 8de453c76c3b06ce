"""Errors of the trainer. All are user-facing: one line that says what is wrong and what to do.

EdgeAgentError (models.errors)
└── TrainerError
    ├── MemoryLimit       a round would take, or has taken, more than train.memory_mb
    ├── NotTrainable      this model's architecture or weights cannot be trained here
    ├── ExportError       the adapter does not fit the model, or has values no GGUF can hold
    └── CheckpointError   a checkpoint is damaged, or belongs to another model or run
"""

from models.errors import EdgeAgentError


class TrainerError(EdgeAgentError):
    """The trainer cannot go on."""


class NotTrainable(TrainerError):
    """The model can be served but not trained here; the message says why and what can be."""


class MemoryLimit(TrainerError):
    """The memory that the user allows the trainer does not do; the message says what to change."""


class ExportError(TrainerError):
    """The adapter cannot be written for this model."""


class CheckpointError(TrainerError):
    """The checkpoint is damaged or foreign."""
