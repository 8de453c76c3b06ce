"""`edge-agent models`: list, show, pull, add, remove, path, tune."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from models.cli.adapters import adapters_app
from models.cli.options import AsJson, DataDir, data_dir_of, print_table

if TYPE_CHECKING:
    from models.catalog import ModelEntry
    from models.tuned import Tuned

__all__ = ["adapters_app", "models_app"]

models_app = typer.Typer(
    no_args_is_help=True, help="Models: what can be served, pull it, tune it for this machine."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of `edge-agent models list`.")]


@models_app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the catalog and what of it is on this machine.

    \b
    Example: edge-agent models list --json | jq -r '.[] | select(.path) | .name'
    """
    from models.catalog import Catalog

    folder = data_dir_of(ctx, data_dir)
    entries = Catalog.load(folder).entries
    if as_json:
        typer.echo(json.dumps([_describe(entry, folder) for entry in entries], indent=2))
        return
    print_table(
        ("name", "MB>", "context>", "licence", "trainable", "on this machine"),
        [
            (
                entry.name,
                f"{entry.size_mb:,}",
                f"{entry.context:,}",
                entry.licence,
                "yes" if entry.trainable else "no",
                _presence(entry, folder),
            )
            for entry in entries
        ],
    )


@models_app.command()
def show(ctx: typer.Context, name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Show one model: source, file, offload token, and what `tune` measured.

    \b
    Example: edge-agent models show smollm2-135m-instruct
    """
    from models.catalog import Catalog

    folder = data_dir_of(ctx, data_dir)
    entry = Catalog.load(folder).get(name)
    described = _describe(entry, folder)
    if as_json:
        typer.echo(json.dumps(described, indent=2))
        return
    tuned = described.pop("tuned")
    for key, value in described.items():
        text = ", ".join(value) if isinstance(value, list) else value
        typer.echo(f"{key.replace('_', ' '):<14} {'-' if text is None else text}")
    if tuned:
        typer.echo(f"{'tuned':<14} {tuned['choice']} (on {tuned['cpu']})")
        _print_rows(tuned["rows"], tuned["choice"])


@models_app.command()
def pull(ctx: typer.Context, name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Download a model; a pull that was cut goes on where it stopped.

    Honours HF_TOKEN and HF_ENDPOINT.

    \b
    Example: edge-agent models pull qwen2.5-1.5b-instruct
    """
    from models import sources
    from models.catalog import Catalog

    folder = data_dir_of(ctx, data_dir)
    done = sources.pull(Catalog.load(folder).get(name), folder)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "name": done.entry.name,
                    "path": str(done.path),
                    "downloaded": done.downloaded,
                    "offload_token": done.entry.offload_token,
                    "note": done.note,
                }
            )
        )
        return
    if done.note:
        typer.echo(f"note: {done.note}", err=True)
    typer.echo(f"{done.path}" if done.downloaded else f"{done.path} (was here already)")


@models_app.command()
def add(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A GGUF on this machine.")],
    *,
    name: Annotated[
        str | None, typer.Option(help="What to call it. [default: from the file name]")
    ] = None,
    offload_token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help='Means "ask the cloud". [default: a usable one]'),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Jinja, instead of the file's own."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Add a GGUF of your own to the catalog; the file stays where it is.

    \b
    Example: edge-agent models add ~/gguf/my-model.Q8_0.gguf --name my-model
    """
    from dataclasses import replace

    from models import catalog
    from models.errors import ModelError

    folder = data_dir_of(ctx, data_dir)
    wanted = catalog.check_name(name or catalog.slug(path.stem))
    if wanted in _names(folder):
        raise ModelError(f"{wanted} is in the catalog already; choose another --name")
    entry = catalog.entry_for(path.expanduser(), name=wanted, offload_token=offload_token)
    if chat_template is not None:
        try:
            template = chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read {chat_template}: {error}") from error
        entry = replace(entry, chat_template=template)
    catalog.add(entry, folder)
    typer.echo(
        f"added {entry.name}: {entry.architecture}, {entry.size_mb} MB, "
        f"offload token {entry.offload_token!r}"
    )
    if entry.served_only:
        typer.echo(f"note: served only, not trained: {entry.served_only}", err=True)


@models_app.command()
def remove(
    ctx: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete what was pulled or tuned for a model, and its entry if you added it.

    A file of your own that you added stays where it is.

    \b
    Example: edge-agent models remove qwen3-4b --yes
    """
    from models import sources
    from models.catalog import Catalog

    folder = data_dir_of(ctx, data_dir)
    entry = Catalog.load(folder).get(name)
    if not yes:
        typer.confirm(f"Remove {entry.name}?", abort=True)
    freed = sources.remove(entry, folder)
    still = entry.locate(folder) if entry.name in _names(folder) else None
    kept = f"; {still} is not ours to delete and is still served" if still else ""
    typer.echo(f"removed what was made for {entry.name}, {freed / 1e6:,.0f} MB freed{kept}")


@models_app.command()
def path(ctx: typer.Context, name: Name, data_dir: DataDir = None) -> None:
    """Print the file that serves a model (the tuned one, if there is one).

    \b
    Example: llama-bench -m "$(edge-agent models path smollm2-135m-instruct)"
    """
    from models.catalog import resolve

    typer.echo(resolve(name, data_dir_of(ctx, data_dir)).path)


@models_app.command()
def tune(
    ctx: typer.Context,
    name: Name,
    *,
    threads: Annotated[
        int | None, typer.Option(min=1, help="[default: physical cores]", show_default=False)
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Perplexity may be this much above the best (relative).")
    ] = 0.02,
    keep: Annotated[
        Literal["chosen", "all"], typer.Option(help="Which candidates' files to keep.")
    ] = "chosen",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Measure a model's weight types on this machine and remember the best.

    As shipped, Q4_0, Q8_0 and BF16: prefill, decoding one and eight at a time, and perplexity.
    Close other programs first.

    \b
    Example: edge-agent models tune smollm2-135m-instruct
    """
    from rich.console import Console

    from models import tune as tuning

    console = Console(stderr=True)
    with console.status("") as status:
        tuned = tuning.tune(
            name,
            data_dir_of(ctx, data_dir),
            threads=threads,
            tolerance=tolerance,
            keep_all=keep == "all",
            progress=lambda step: status.update(f"{name}: {step}"),
        )
    if as_json:
        typer.echo(json.dumps(_choice(tuned), indent=2))
        return
    _print_rows(tuned.rows, tuned.choice)
    typer.echo(f"{name} is served {tuned.choice} from its next start on")


def _names(folder: Path) -> set[str]:
    from models.catalog import Catalog

    return {entry.name for entry in Catalog.load(folder).entries}


def _describe(entry: "ModelEntry", folder: Path) -> dict[str, Any]:
    from models.catalog import model_dir
    from models.tuned import Tuned

    path = entry.locate(folder)
    tuned = Tuned.load(model_dir(folder, entry.name))
    return {
        "name": entry.name,
        "title": entry.title,
        "sources": [str(source) for source in entry.sources],
        "path": str(path) if path else None,
        "size_mb": entry.size_mb,
        "licence": entry.licence,
        "architecture": entry.architecture,
        "context": entry.context,
        "offload_token": entry.offload_token,
        "trainable": entry.trainable,
        "served_only": entry.served_only,
        "chat_template": "the catalog's" if entry.chat_template else "the file's own",
        "tuned": _choice(tuned) if tuned else None,
    }


def _choice(tuned: "Tuned") -> dict[str, Any]:
    return {
        "choice": tuned.choice,
        "file": tuned.file,
        "cpu": tuned.cpu,
        "llama_cpp": tuned.llama_cpp,
        "rows": list(tuned.rows),
        "proposed": tuned.proposed,
    }


def _presence(entry: "ModelEntry", folder: Path) -> str:
    from models.catalog import model_dir
    from models.tuned import Tuned

    if entry.locate(folder) is None:
        return ""
    tuned = Tuned.load(model_dir(folder, entry.name))
    return f"yes, tuned: {tuned.choice}" if tuned else "yes"


def _print_rows(rows: "tuple[Mapping[str, Any], ...] | list[Any]", choice: str) -> None:
    print_table(
        ("weights", "MB>", "prefill tok/s>", "decode ×1>", "decode ×8>", "perplexity>", ""),
        [
            (row["name"], "", "", "", "", "", row["skipped"])
            if row["skipped"]
            else (
                row["name"],
                f"{row['size_mb']:,.0f}",
                f"{row['prefill']:,.0f}",
                f"{row['decode_1']:,.0f}",
                f"{row['decode_8']:,.0f}",
                f"{row['perplexity']:.2f}",
                "← chosen" if row["name"] == choice else "",
            )
            for row in rows
        ],
    )
