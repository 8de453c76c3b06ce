"""The group `edge-agent benchmark`.

To add a command, import its function from a light module and register it at the end of the file:
the function imports what is heavy when it runs, so that `--help` is fast.
"""

import typer

from benchmarks.continual.command import continual
from benchmarks.runtime.part_commands import compare, engine, log, train
from benchmarks.runtime.serving_commands import interference, latency, memory, start

app = typer.Typer(no_args_is_help=True)


@app.callback()
def benchmark() -> None:
    """Measure this machine: latency, engine, memory, training, interference; and the method."""


for command in (latency, engine, memory, train, interference, log, start, compare, continual):
    app.command()(command)
