"""The learner: DA-GRPO on the log."""

import os

# OpenMP's threads wait for each other by spinning, which starves them when they share cores with
# the daemon: a 5 s step took 170 s beside other work. Asleep they wake up too late: 1.8 s where
# 1.3 s would do. So they spin for some microseconds. ACTIVE, because after PASSIVE libgomp spins
# not at all once llama.cpp's threads and torch's together outnumber the cores: a step of 6.7 s
# takes 4.9 s. Read once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
