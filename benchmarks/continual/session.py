"""The workbench that all methods share: one engine, one set of graders, temporary data."""

import contextlib
from collections.abc import Iterator

from benchmarks.continual.protocol import Protocol
from benchmarks.runtime.servers import temporary_data
from edge_agent.settings import Settings
from trainer.workbench import Workbench


@contextlib.contextmanager
def workbench(settings: Settings, protocol: Protocol) -> Iterator[Workbench]:
    """A workbench for `protocol`; of the user's own only the models are seen, nothing is written.

    The weights are what the daemon would serve: the choice of `models tune`, if there is one.
    """
    with temporary_data(settings) as folder:
        engine = {"context": protocol.context, "threads": protocol.threads}
        train = {
            "group_size": protocol.group_size,
            "prompts_per_step": protocol.prompts_per_step,
            "max_new_tokens": protocol.max_new_tokens,
            "threads": protocol.threads,
            "rate": protocol.rate,
        }
        own = settings.model_copy(
            update={
                "data_dir": folder,
                "model": protocol.model,
                "decision": settings.decision.model_copy(update={"window": 1}),
                "engine": settings.engine.model_copy(update=engine),
                "train": settings.train.model_copy(update=train),
            }
        )
        with Workbench(own) as bench:
            yield bench
