"""kill -9 under load while adapters are swapped; `make soak-daemon` does it hundreds of times."""

from pathlib import Path

from tests.soak.crash import trial


def test_a_daemon_killed_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    with trial(tmp_path, seed=1) as found:
        for _ in range(2):
            found.kill_once()
        assert found.acknowledged
