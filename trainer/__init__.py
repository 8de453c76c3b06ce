"""The learner: DA-GRPO on the log."""

import os

# OpenMP's threads wait for each other by spinning, which starves them when they share cores with
# the daemon: a 5 s step took 170 s beside other work, and 20 s with waiting threads asleep. They
# spin for some microseconds first: on a quiet machine waking up costs more (1.3 against 1.8 s a
# step). Read once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
