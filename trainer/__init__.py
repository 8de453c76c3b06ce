"""The learner: DA-GRPO on the log."""

import models  # noqa: F401  how OpenMP's threads wait is set before torch is imported
