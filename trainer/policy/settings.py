"""What the learner can be told. Validated on construction; errors name the field.

What a user can set (`train.*`) has its default there, and there alone.
"""

from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field

from edge_agent.config.settings import TrainSettings

Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LINEAR_MODULES: tuple[Module, ...] = get_args(Module)
_USER = TrainSettings()


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraSettings(_Section):
    """A fresh adapter. One that is trained on keeps the shape it was born with."""

    rank: int = Field(_USER.rank, ge=1)
    alpha: int = Field(_USER.alpha, gt=0, description="The change is alpha / rank * B A")
    modules: tuple[Module, ...] = Field(LINEAR_MODULES, min_length=1)

    @classmethod
    def of(cls, train: TrainSettings) -> Self:
        """The shape that the user set. Raises ValidationError naming an unknown module."""
        modules = train.modules or LINEAR_MODULES
        return cls.model_validate({"rank": train.rank, "alpha": train.alpha, "modules": modules})


_REFERENCE = 135e6
"""Parameters of the model that the defaults were measured on."""
_LONGEST_MINUTES = 45.0


def sized(train: TrainSettings, n_parameters: int) -> TrainSettings:
    """`train` with what the user left unset chosen for a model of that many parameters.

    Learning rates fall with the root of the size, which gives the 3e-4 at which
    Qwen2.5-Coder-1.5B learned a log's answers in 22 steps; minutes rise with it.
    """
    root = max(1.0, n_parameters / _REFERENCE) ** 0.5
    chosen = {
        "learning_rate": train.learning_rate / root,
        "warm_start_learning_rate": train.warm_start_learning_rate / root,
        "minutes": max(train.minutes, min(_LONGEST_MINUTES, train.minutes * root)),
    }
    unset = chosen.keys() - train.model_fields_set
    return train.model_copy(update={name: chosen[name] for name in unset})


class LearnerSettings(_Section):
    """One optimizer step of DA-GRPO or of supervised learning."""

    lora: LoraSettings = LoraSettings()
    estimator: Literal["exact", "sampled"] = _USER.estimator
    learning_rate: float = Field(_USER.learning_rate, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    clip: float = Field(0.2, gt=0, lt=1, description="PPO's epsilon")
    importance_cap: float = Field(2.0, ge=1, description="Truncation of pi / mu per token")
    kl: float = Field(_USER.kl, ge=0, description="Weight of the KL to the promoted adapter")
    kl_share: float = Field(
        0.25, gt=0, le=1, description="Share of a step's prompts that the KL is taken on"
    )
    entropy: float = Field(_USER.entropy, ge=0, description="Weight of the decision's entropy")
    updates: int = Field(1, ge=1, description="Optimizer updates on one batch of rollouts")
    window: int = Field(1, ge=1, description="Decision window in answer positions")
    tokens_at_once: int = Field(
        384,
        ge=1,
        description="Positions in one micro-batch; activations take about 0.5 MB each on SmolLM2. "
        "A single longer group recomputes its activations instead of keeping them",
    )
    rows_at_once: int = Field(64, ge=1, description="Positions whose logits are held at once")
    threads: int | None = Field(
        _USER.threads, ge=1, description="None: as many of torch's own choice as pay now"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="Of the frozen base; auto: what this processor multiplies faster"
    )

    @classmethod
    def of(cls, train: TrainSettings, **others: Any) -> Self:
        """What the user set; `others` are fields of the learner alone, or differ from it."""
        shared = cls.model_fields.keys() & TrainSettings.model_fields.keys()
        values = {name: getattr(train, name) for name in shared}
        return cls.model_validate({"lora": LoraSettings.of(train), **values, **others})
