"""The learner learns: rewards, prices and examples move the policy the way they should."""

import math
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch

from tests.trainer.tiny_models import OFFLOAD_TOKEN, write_tiny
from trainer.errors import TrainerError
from trainer.learner import Example, Learner
from trainer.objective import Episode
from trainer.policy import weights
from trainer.policy.logprobs import AnswerLogProbs
from trainer.policy.packing import Answers
from trainer.policy.settings import LearnerSettings, LoraSettings

PROMPT = (10, 20, 30, 40)
GOOD, BAD = (65, 66), (90,)
FAST = LearnerSettings(
    learning_rate=5e-3, lora=LoraSettings(rank=4), kl=0.0, entropy=0.0, dtype="float32"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama")


def learner_of(path: Path, settings: LearnerSettings = FAST, **options: object) -> Learner:
    return Learner(path, settings, offload_token=OFFLOAD_TOKEN, **options)


def look(learner: Learner, answers: tuple = (GOOD, BAD)) -> AnswerLogProbs:
    return learner.logprobs([Answers(PROMPT, answers)])[0]


def episode(
    learner: Learner, rewards: tuple = (1.0, 0.0), reward_off: float = 0.5, asked: int = 0
) -> Episode:
    """GOOD and BAD as if just sampled from the learner itself."""
    logp = look(learner)
    behaviour = [
        logp.local_B_G_T[0, g, : len(answer)].tolist() for g, answer in enumerate((GOOD, BAD))
    ]
    p = logp.log_p_B.exp().item()
    return Episode(PROMPT, (GOOD, BAD), behaviour, rewards, reward_off, p, asked)


@pytest.fixture(scope="module")
def promoted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("promoted")
    learner_of(tiny).lora.save(folder)
    return folder


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_a_rewarded_answer_gets_likelier(tiny: Path, estimator: str) -> None:
    learner = learner_of(tiny, FAST.model_copy(update={"estimator": estimator}))
    before = look(learner).local_B_G_T.sum(-1)[0]
    for _ in range(5):
        learner.step([episode(learner)], dual=0.5)
    after = look(learner).local_B_G_T.sum(-1)[0]
    assert after[0] > before[0]
    assert after[1] < before[1]


@pytest.mark.parametrize(("reward_off", "dual", "rises"), [(1.0, 0.0, True), (1.0, 1.0, False)])
@pytest.mark.parametrize(("estimator", "asked"), [("exact", 0), ("sampled", 2)])
def test_asking_follows_its_gain_less_its_price(
    *, tiny: Path, reward_off: float, dual: float, rises: bool, estimator: str, asked: int
) -> None:
    learner = learner_of(tiny, FAST.model_copy(update={"estimator": estimator}))
    for _ in range(10):
        learner.supervised_step([Example(PROMPT, GOOD, 0.3), Example(PROMPT, BAD, 0.3)])
    before = look(learner).log_p_B.item()
    for _ in range(5):
        learner.step([episode(learner, (0.5, 0.4), reward_off, asked)], dual)
    assert (look(learner).log_p_B.item() > before) is rises


def test_figures_on_policy(tiny: Path) -> None:
    learner = learner_of(tiny)
    fair, dull = episode(learner), episode(learner, (0.7, 0.7), 0.2)
    figures = learner.step([fair, dull], dual=0.1)
    p = fair.p_offload
    assert figures.p_offload == pytest.approx(p, rel=1e-4)
    assert figures.cost == figures.p_offload
    assert figures.reward_local == pytest.approx((1 + 0 + 0.7 + 0.7) / 4)
    assert figures.reward_offload == pytest.approx(0.35)
    assert figures.entropy == pytest.approx(-p * math.log(p) - (1 - p) * math.log1p(-p), abs=2e-6)
    assert figures.abs_delta_logp == pytest.approx(0, abs=1e-5)
    assert figures.effective_samples == pytest.approx(1, abs=1e-5)
    assert figures.unanimous == 0.5
    assert figures.tokens == 3  # the unanimous group's answers teach nothing
    assert figures.kl == 0
    assert figures.grad_norm > 0


def test_figures_off_policy_and_sampled(tiny: Path) -> None:
    learner = learner_of(tiny, FAST.model_copy(update={"estimator": "sampled"}))
    fair = episode(learner, asked=2)
    shifted = replace(fair, logprobs=[[v - 0.5 for v in row] for row in fair.logprobs])
    figures = learner.step([shifted], dual=0.1)
    assert figures.cost == 0.5
    # tokens of the two answers are off by 0.5; the four decisions are not
    assert figures.abs_delta_logp == pytest.approx(3 * 0.5 / (3 + 4), rel=1e-4)
    weights_ = [math.exp(1.0), math.exp(0.5), 1.0, 1.0]
    expected = sum(weights_) ** 2 / sum(w * w for w in weights_) / 4
    assert figures.effective_samples == pytest.approx(expected, rel=1e-4)


class Thorough(Learner):
    """Computes every answer of every group."""

    def _needed(self, episodes, dual, anchors):  # type: ignore[no-untyped-def]
        groups = [Answers(each.prompt_ids, each.answers) for each in episodes]
        return groups, [list(range(len(each.answers))) for each in episodes]


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_what_is_spared_would_not_have_changed_the_step(
    tiny: Path, promoted: Path, estimator: str
) -> None:
    """Equal answers count each; unanimous groups move the decision alone."""
    settings = FAST.model_copy(update={"kl": 3.0, "kl_share": 0.5, "estimator": estimator})
    results = []
    for kind in (Learner, Thorough):
        learner = kind(tiny, settings, offload_token=OFFLOAD_TOKEN, adapter=promoted)
        asked = 2 if estimator == "sampled" else 0
        fair = episode(learner, asked=asked)
        twice = [fair.logprobs[0], fair.logprobs[0], fair.logprobs[1]]
        same = replace(fair, answers=(GOOD, GOOD, BAD), logprobs=twice, rewards=(1.0, 1.0, 0.0))
        dull = episode(learner, (0.7, 0.7), 0.2, asked)
        for _ in range(3):  # the KL has a gradient only away from the promoted adapter
            strange = replace(dull, anchored=False)
            learner.step([strange, dull, same, fair, replace(dull, reward_off=0.9)], dual=0.1)
        results.append(learner.lora.state())
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=2e-5, rtol=1e-3)


def test_a_group_in_which_every_rollout_asked_has_no_answers(tiny: Path) -> None:
    learner = learner_of(tiny, FAST.model_copy(update={"estimator": "sampled"}))
    all_ask = Episode(PROMPT, (), (), (), 0.8, 0.9, asked=8)
    figures = learner.step([all_ask, episode(learner)], dual=0.1)
    assert figures.tokens == 3
    assert math.isfinite(figures.loss)


def test_micro_batches_do_not_change_the_step(tiny: Path, promoted: Path) -> None:
    pauses: list[int] = []
    results = []
    for limit in (4096, 1):  # together; alone and recomputed
        settings = FAST.model_copy(update={"tokens_at_once": limit, "kl": 0.1, "updates": 2})
        learner = learner_of(tiny, settings, adapter=promoted, between=lambda: pauses.append(1))
        ready = len(pauses)
        episodes = [episode(learner), episode(learner, (0.2, 0.9), 0.1)]
        learner.step(episodes, dual=0.2)
        results.append(learner.lora.state())
        assert len(pauses) > ready
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=2e-5, rtol=1e-3)


def test_kl_holds_the_adapter_near_the_promoted_one(tiny: Path, promoted: Path) -> None:
    drift = []
    for kl in (0.0, 5.0):
        learner = learner_of(tiny, FAST.model_copy(update={"kl": kl}), adapter=promoted)
        start = look(learner).local_B_G_T
        for _ in range(6):
            figures = learner.step([episode(learner)], dual=0.0)
        assert (figures.kl > 0) is (kl > 0)
        drift.append((look(learner).local_B_G_T - start).abs().max())
    assert drift[1] < drift[0] / 2


def test_nothing_holds_to_the_promoted_adapter_where_it_knows_nothing(
    tiny: Path, promoted: Path
) -> None:
    """It was never trained on a new kind of work: there its opinion is worth nothing."""
    ends = []
    for kl in (0.0, 5.0):
        learner = learner_of(tiny, FAST.model_copy(update={"kl": kl}), adapter=promoted)
        for _ in range(3):
            figures = learner.step([replace(episode(learner), anchored=False)], dual=0.0)
        assert figures.kl == 0
        ends.append(learner.lora.state())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_without_a_promoted_adapter_there_is_nothing_to_hold_to(tiny: Path) -> None:
    learner = learner_of(tiny, FAST.model_copy(update={"kl": 5.0}))
    learner.step([episode(learner)], dual=0.0)
    assert learner.step([episode(learner)], dual=0.0).kl == 0


def test_supervised_steps_teach_the_answer_and_the_rate(tiny: Path) -> None:
    learner = learner_of(tiny)
    examples = [Example(PROMPT, GOOD, p_offload=0.3), Example((7, 8), BAD)]
    losses = [learner.supervised_step(examples) for _ in range(100)]
    assert losses[-1] < losses[0] / 3
    assert look(learner).log_p_B.exp().item() == pytest.approx(0.3, abs=0.05)
    assert look(learner).local_B_G_T[0, 0].sum() > -0.5


def test_an_answer_can_be_taught_without_a_decision_and_a_decision_without_an_answer(
    tiny: Path,
) -> None:
    learner = learner_of(tiny)
    logp = look(learner)
    answer, p = logp.local_B_G_T[0, 0].sum().item(), logp.log_p_B.exp().item()
    loss = learner.supervised_step([Example(PROMPT, GOOD)])
    assert loss == pytest.approx(-answer, rel=1e-4), "no term of the decision"

    def asked(index: int, nll: float) -> float:
        raise AssertionError(f"nothing is to be asked about example {index} ({nll} nats)")

    examples = [Example(PROMPT, p_offload=0.9), Example((7, 8), GOOD)]
    for _ in range(60):
        learner.supervised_step(examples, asked)
    assert look(learner).log_p_B.exp().item() == pytest.approx(0.9, abs=0.05)
    assert p < 0.5


def test_a_step_that_is_not_finite_changes_nothing(tiny: Path) -> None:
    learner = learner_of(tiny)
    before = learner.lora.state()
    with pytest.raises(TrainerError, match="not finite"):
        learner.step([episode(learner, (math.nan, 0.0))], dual=0.0)
    assert all(torch.equal(value, before[name]) for name, value in learner.lora.state().items())


def test_a_step_hands_its_memory_back_between_micro_batches_and_at_its_end(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(tiny, FAST.model_copy(update={"tokens_at_once": 1}))
    episodes = [episode(learner), episode(learner)]
    left: list[list[object]] = []
    monkeypatch.setattr(
        "trainer.learner.give_back_freed",
        lambda: left.append([value.grad for value in learner.lora.parameters.values()]),
    )
    learner.step(episodes, dual=0.0)
    assert len(left) == 3
    assert left[-1] == [None] * len(learner.lora.parameters), "its gradients are gone by then"


@pytest.mark.parametrize("continued", [False, True])
def test_saved_and_restored_it_goes_on_bit_for_bit(
    tiny: Path, promoted: Path, *, continued: bool
) -> None:
    adapter = promoted if continued else None
    learner = learner_of(tiny, FAST.model_copy(update={"kl": 0.1}), adapter=adapter)
    learner.step([episode(learner)], dual=0.0)
    twin = learner_of(tiny, FAST.model_copy(update={"kl": 0.1}), seed=1)
    twin.load_tensors(learner.tensors())
    for either in (learner, twin):
        either.step([episode(either)], dual=0.0)
    for name, value in learner.tensors().items():
        assert torch.equal(value, twin.tensors()[name]), name


def test_peft_reads_the_adapter_and_computes_the_same(tiny: Path, tmp_path: Path) -> None:
    learner = learner_of(tiny)
    for _ in range(3):
        learner.step([episode(learner)], dual=0.0)
    learner.lora.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    base, _ = weights.load(tiny, torch.float32)
    model = peft.PeftModel.from_pretrained(base, str(tmp_path), is_trainable=True)
    ids = torch.tensor([[*PROMPT, *GOOD]])
    theirs = model(ids).logits.log_softmax(-1)
    ours = learner.lora.base(ids).logits.log_softmax(-1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    trainable = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(theirs[0, -1, 5], trainable)
    actual = torch.autograd.grad(ours[0, -1, 5], list(learner.lora.parameters.values()))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

    again = learner_of(tiny, adapter=tmp_path)
    torch.testing.assert_close(look(again).local_B_G_T, look(learner).local_B_G_T)
    assert again.lora.config.r == 4


def test_an_adapter_of_another_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.gguf", "gemma3")
    learner_of(other).lora.save(tmp_path / "adapter")
    with pytest.raises(TrainerError, match="do not fit this model"):
        learner_of(tiny, adapter=tmp_path / "adapter")


@pytest.mark.parametrize(
    "change",
    [{"rewards": (1.0,)}, {"logprobs": [[0.0], [0.0]]}, {"costs": (1.0,)}, {"logprobs": []}],
)
def test_an_episode_must_be_whole(tiny: Path, change: dict) -> None:
    good = Episode(PROMPT, (GOOD, BAD), [[0.0, 0.0], [0.0]], (1.0, 0.0), 0.5, 0.5)
    with pytest.raises(ValueError, match="an episode needs"):
        replace(good, **change)
    with pytest.raises(ValueError, match="at least two rollouts"):
        Episode(PROMPT, (BAD,), [[0.0]], (1.0,), 0.5, 0.5)
