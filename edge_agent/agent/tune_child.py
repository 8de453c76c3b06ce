"""Measures the forms of a model's file, behind everything else: MODEL DATA_DIR THREADS.

Ends with status 0 once a choice is made, else with the reason on its standard error.
"""

import sys
from pathlib import Path

from edge_agent.processes.own import lower_priority

if __name__ == "__main__":
    lower_priority()
    from models.errors import EdgeAgentError
    from models.tune import tune

    name, data_dir, threads = sys.argv[1:]
    try:
        tune(name, Path(data_dir), threads=int(threads) or None, unasked=True)
    except EdgeAgentError as error:
        sys.exit(error.message)
