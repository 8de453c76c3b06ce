"""Runs every check; a check that fails itself is a finding, not a crash."""

from collections.abc import Callable, Iterator

from edge_agent.doctor import data, machine, network
from edge_agent.doctor import data as log
from edge_agent.doctor.check import Check, Subject, failure

CHECKS: tuple[Callable[[Subject], Check], ...] = (
    machine.python,
    machine.backend,
    data.model,
    data.adapter,
    machine.memory,
    machine.disk,
    data.data_dir,
    data.database,
    log.log,
    machine.clock,
    network.cloud_key,
    network.cloud,
    network.price,
    network.exposure,
    network.daemon,
)


def examine(subject: Subject) -> Iterator[Check]:
    """One finding per check, in order, as each is made."""
    for check in CHECKS:
        try:
            yield check(subject)
        except Exception as error:
            name = check.__name__.replace("_", " ")
            text = " ".join(f"{type(error).__name__}: {error}".split())
            yield failure(name, f"the check itself failed: {text}", "edge-agent -v doctor")
