"""The demo's figures, on answers small enough to count by hand."""

import pytest

from benchmarks.demo import figures
from benchmarks.demo.families import Plan, Question
from benchmarks.demo.story import Findings
from benchmarks.demo.traffic import Answered


def easy(text: str, source: str = "local", **more) -> Answered:
    return Answered(Question("1 + 1", "2", "arithmetic", hard=False), text, source, **more)


def hard(text: str, source: str = "local", **more) -> Answered:
    return Answered(Question("9 * 9", "81", "arithmetic", hard=True), text, source, **more)


# Six easy and four hard ones. Deciding: of the easy ones one asks, one is wrong; of the hard ones
# three ask (one comes back wrong, one falls back and is wrong), one stays and is wrong.
DECIDED = [
    *[easy("2")] * 4,
    easy("3"),
    easy("2", "cloud"),
    hard("81", "cloud"),
    hard("18", "cloud"),
    hard("80", "fallback"),
    hard("0"),
]
# Alone: four of six easy ones, none of the hard ones.
LOCAL = [*[easy("2")] * 4, *[easy("3")] * 2, *[hard("0")] * 4]


def test_accuracy_and_rates_are_counted_apart_for_easy_and_hard():
    found = figures.measure(DECIDED, LOCAL, rate=0.3, cloud_accuracy=1.0)
    assert found.questions == 10
    assert found.joint == pytest.approx(6 / 10)
    assert found.local == pytest.approx(4 / 10)
    assert (found.local_easy, found.local_hard) == (pytest.approx(4 / 6), 0)
    assert found.rate == pytest.approx(4 / 10)  # a call that fell back was made, too
    assert (found.rate_easy, found.rate_hard) == (pytest.approx(1 / 6), pytest.approx(3 / 4))
    assert found.of_oracle == pytest.approx(0.6 / 0.7)
    assert not found.trained
    assert figures.measure([easy("2", adapter="v1")], [easy("2")], rate=0, cloud_accuracy=1).trained


@pytest.mark.parametrize(
    ("rate", "cloud_accuracy", "expected"),
    [
        (0.3, 1.0, 0.7),  # 4 right + 3 of the 6 failures, as the budget allows
        (0.39, 1.0, 0.7),  # ⌊3.9⌋ is 3
        (0.9, 1.0, 1.0),  # no need to ask about what is right
        (0.3, 0.5, 0.55),
        (0.0, 1.0, 0.4),
    ],
)
def test_the_oracle_sends_exactly_the_failures_within_the_budget(rate, cloud_accuracy, expected):
    right = [True] * 4 + [False] * 6
    assert figures.oracle(right, rate=rate, cloud_accuracy=cloud_accuracy) == pytest.approx(
        expected
    )


def test_the_clouds_accuracy_is_that_of_its_own_answers():
    assert figures.cloud_accuracy(DECIDED) == pytest.approx(2 / 3)
    assert figures.cloud_accuracy(LOCAL) == 1.0


def test_a_dropped_request_counts_as_dropped_and_as_wrong():
    answers = [
        easy("2", adapter="base", seconds=0.1),
        easy("", seconds=9.0, error="the connection broke"),
        easy("2", adapter="v1", seconds=0.3),
        easy("2", adapter="v1", seconds=0.5),
    ]
    found = figures.live(answers)
    assert (found.requests, found.dropped) == (4, 1)
    assert found.versions == ("base", "v1")
    assert (found.median_s, found.slowest_s) == (0.3, 0.5)
    assert not answers[1].right


def test_forgetting_is_what_the_first_family_lost_after_the_second_was_learnt():
    def moment(joint: float, local: float, trained: bool = True) -> dict[str, figures.Measured]:
        return {"arithmetic": figures.Measured(10, joint, local, 0, 0, 0.3, 0, 0, 1.0, trained)}

    findings = Findings(Plan.of(15))
    findings.moments = {
        "before": moment(0.2, 0.0),
        "after arithmetic": moment(0.95, 0.6),
        "after words": moment(0.9, 0.62),
    }
    assert findings.forgetting == pytest.approx({"joint": 0.05, "local": -0.02})
    findings.moments["after arithmetic"] = moment(0.2, 0.0, trained=False)
    assert findings.forgetting is None


def test_more_minutes_mean_more_of_everything():
    short, long = Plan.of(3), Plan.of(15)
    for plan, minutes in ((short, 3), (long, 15)):  # two rounds leave time for the rest
        assert 2 * float(plan.train_settings["EDGE_AGENT_TRAIN_MINUTES"]) < 0.7 * minutes
    assert short.stream < long.stream
    assert short.steps < long.steps
    assert short.held_out <= long.held_out
    assert Plan.of(1).stream * 0.8 > 40  # what the trainer needs at the least
