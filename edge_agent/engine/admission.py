"""Who may still join the queue: a crowd of one client does not keep the others out."""

from collections import Counter

from edge_agent.engine.scheduler import Scheduler
from edge_agent.errors import QueueFull
from edge_agent.records.generation import Counters


class Admission:
    """Bounds the jobs that wait. Its caller holds the engine's lock."""

    def __init__(self, slots: int, queue: int, counters: Counters) -> None:
        """`queue`: the most jobs that wait while every one of the `slots` is taken."""
        self._slots = slots
        self._queue = queue
        self._counters = counters
        self.posted: Counter[str] = Counter()
        """Jobs on their way to the engine thread, by client."""

    def must_displace(self, client: str, scheduler: Scheduler) -> bool:
        """Whether the queue is full, but of others who have more in it than their share.

        Raises QueueFull if `client` has its share of the queue already.
        """
        queue = scheduler.waiting
        waiting, room = self.posted.total() + len(queue), self._room(scheduler)
        if waiting < room:
            return False
        own = queue.count(client)
        share = room // (queue.clients() + (own == 0))
        if own + self.posted[client] >= share:
            raise self._queue_full(waiting)
        return True

    def displace(self, scheduler: Scheduler) -> None:
        """Send whoever has most in the queue away, if it is too long. In the engine thread."""
        waiting = len(scheduler.waiting)
        if waiting > self._room(scheduler):
            scheduler.displace(self._queue_full(waiting))

    def _room(self, scheduler: Scheduler) -> int:
        """Requests that may wait: those in the queue, and those for whom a slot is free."""
        free = self._slots - len(scheduler.active) - len(scheduler.ready)
        return self._queue + max(0, free)

    def _queue_full(self, waiting: int) -> QueueFull:
        retry = self._counters.job_s * (1 + waiting / self._slots)
        return QueueFull(
            f"{waiting} requests are waiting already; try again in {retry:.0f} s",
            retry_after_s=max(1.0, retry),
        )
