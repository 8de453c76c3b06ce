"""The group `edge-agent benchmark`. Heavy imports are inside, so that `--help` is fast.

To add a command, import a function whose module is light and register it at the end of the file.
"""

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def benchmark() -> None:
    """Measure this machine: latency, engine, memory, training, interference."""
