"""What the learner can be told. Validated on construction; errors name the field."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LINEAR_MODULES: tuple[Module, ...] = get_args(Module)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraSettings(_Section):
    """A fresh adapter. One that is trained on keeps the shape it was born with."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, gt=0, description="The change is alpha / rank * B A")
    modules: tuple[Module, ...] = Field(LINEAR_MODULES, min_length=1)


class LearnerSettings(_Section):
    """One optimizer step of DA-GRPO or of supervised learning."""

    lora: LoraSettings = LoraSettings()
    estimator: Literal["exact", "sampled"] = "exact"
    learning_rate: float = Field(5e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    clip: float = Field(0.2, gt=0, lt=1, description="PPO's epsilon")
    importance_cap: float = Field(2.0, ge=1, description="Truncation of pi / mu per token")
    kl: float = Field(0.01, ge=0, description="Weight of the KL to the promoted adapter")
    kl_share: float = Field(
        0.25, gt=0, le=1, description="Share of a step's prompts that the KL is taken on"
    )
    entropy: float = Field(0.01, ge=0, description="Weight of the decision's entropy")
    updates: int = Field(1, ge=1, description="Optimizer updates on one batch of rollouts")
    window: int = Field(1, ge=1, description="Decision window in answer positions")
    tokens_at_once: int = Field(
        384,
        ge=1,
        description="Positions in one micro-batch; activations take about 0.5 MB each on SmolLM2. "
        "A single longer group recomputes its activations instead of keeping them",
    )
    rows_at_once: int = Field(64, ge=1, description="Positions whose logits are held at once")
    threads: int | None = Field(None, ge=1, description="None: torch's own choice")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="Of the frozen base; auto: what this processor multiplies faster"
    )
