"""What the engine has done since it was made."""


class Counters:
    """Totals; shared by the engine's lanes, written in its thread."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.prefix_hits = 0
        self.batches = 0
        self.job_s = 1.0
        """Moving average of the time from a job's start to its end."""

    def job_done(self, seconds: float) -> None:
        """Count one finished job."""
        self.job_s += 0.1 * (seconds - self.job_s)
