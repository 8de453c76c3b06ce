"""Models: what can be served, where its file lies, and the adapters trained for it."""

import os

# OpenMP's threads wait for each other by spinning. Beside other work the one that is waited for
# may have no processor for a while: 20 tokens took 14 s. Asleep they wake up too late: a token of
# a quiet machine takes half as long again. So they spin for some microseconds, then sleep.
# ACTIVE, because after PASSIVE libgomp spins not at all once its threads outnumber the cores.
# libgomp reads this once, when llama.cpp or torch is imported: after this.
os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
