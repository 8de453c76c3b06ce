"""`train.memory_mb`: what a round is expected to take, and what becomes of one that takes more."""

from pathlib import Path

import pytest

from edge_agent.config.settings import Settings, TrainSettings
from models.gguf import inspect
from tests.trainer.tiny_models import EMBED, FEED_FORWARD, HEADS, KV_HEADS, VOCAB, write_tiny
from trainer.errors import MemoryLimit
from trainer.policy.settings import LearnerSettings, LoraSettings, sized
from trainer.workbench.memory import Gauge, estimate, require_room
from trainer.workbench.workbench import rollout_engine

LAYERS, KV = 2, EMBED // HEADS * KV_HEADS
BYTES = 1e-6


def test_each_part_by_hand(tmp_path: Path) -> None:
    info = inspect(write_tiny(tmp_path / "tiny.gguf", "llama"))
    lora = LoraSettings(rank=4, modules=("q_proj", "down_proj"))
    parts = estimate(info, LearnerSettings(lora=lora, tokens_at_once=10, rows_at_once=3), 100)
    q, kv, mlp = EMBED + EMBED, EMBED + KV, EMBED + FEED_FORWARD
    assert parts["KV cache"] == pytest.approx(100 * LAYERS * 2 * KV * 2 * BYTES)
    assert parts["activations"] == pytest.approx(
        10 * LAYERS * (2 * q + 2 * kv + 3 * mlp) * 2 * BYTES
    )
    assert parts["adapter"] == pytest.approx(LAYERS * 4 * (q + mlp) * 4 * 5 * BYTES)
    assert parts["logits"] == pytest.approx(3 * VOCAB * 4 * 3 * BYTES)
    assert parts["weights"] == pytest.approx(2 * info.n_parameters * BYTES)


@pytest.mark.parametrize(("dtype", "peak_mb"), [("bfloat16", 1150), ("float32", 1636)])
def test_the_estimate_is_what_was_measured(smollm2: Path, dtype: str, peak_mb: float) -> None:
    settings = Settings()
    cells = rollout_engine(settings).context
    parts = estimate(inspect(smollm2), LearnerSettings.of(settings.train), cells, dtype)
    assert sum(parts.values()) == pytest.approx(peak_mb, rel=0.05)


def test_a_round_that_does_not_fit_is_refused_with_what_to_change(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.gguf", "llama")

    def told(memory_mb: int) -> Settings:
        train = TrainSettings(memory_mb=memory_mb)
        return Settings(data_dir=tmp_path, model=str(model), train=train)

    with pytest.raises(MemoryLimit, match=r"train.memory_mb is 300: raise it to 500") as caught:
        require_room(told(300))
    assert "engine.context" in caught.value.message
    require_room(told(500))


def test_a_machine_that_has_less_left_hears_the_figure(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.gguf", "llama")
    settings = Settings(data_dir=tmp_path, model=str(model))
    with pytest.raises(MemoryLimit, match=r"takes about \d+ MB .*, and this machine has 200 MB"):
        require_room(settings, lambda: 200.0)
    require_room(settings, lambda: 500.0)


def test_defaults_follow_the_size_of_the_model() -> None:
    user = TrainSettings()
    small = sized(user, 134_515_008)
    assert small == user
    large = sized(user, 1_543_714_304)  # 11.4 times as many: 3.4 times the root
    assert large.warm_start_learning_rate == pytest.approx(3.0e-4, rel=0.02)
    assert large.learning_rate == pytest.approx(1.5e-5, rel=0.02)
    assert large.minutes == 45


def test_what_the_user_set_stays() -> None:
    set_ = TrainSettings(minutes=15, learning_rate=5e-5, warm_start_learning_rate=1e-3)
    assert sized(set_, 1_543_714_304) == set_
    assert sized(TrainSettings(minutes=60), 1_543_714_304).minutes == 60


def test_a_process_that_grows_past_its_limit_is_told_the_setting() -> None:
    taken = [900.0, 1001.0]
    gauge = Gauge(1000, lambda: taken.pop(0))
    gauge.check()
    with pytest.raises(MemoryLimit, match=r"takes 1,001 MB, more than train.memory_mb = 1,000"):
        gauge.check()
