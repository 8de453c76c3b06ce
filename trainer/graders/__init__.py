"""Graders: how good is an answer, in [0, 1]."""

from trainer.graders.grade import Grade
from trainer.graders.graders import Graders
from trainer.graders.spec import validate

__all__ = ["Grade", "Graders", "validate"]
