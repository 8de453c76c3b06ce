"""The trainer's threads sleep while they wait, unless the user said otherwise."""

from edge_agent.processes.own import wait_without_spinning


def test_threads_sleep_unless_the_user_said_otherwise() -> None:
    environ: dict[str, str] = {}
    wait_without_spinning(environ)
    assert environ == {"OMP_WAIT_POLICY": "passive"}
    theirs = {"OMP_WAIT_POLICY": "active"}
    wait_without_spinning(theirs)
    assert theirs == {"OMP_WAIT_POLICY": "active"}
