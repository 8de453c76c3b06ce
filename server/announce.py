"""What `serve` prints: where it listens, what to try, what serves, and what it may spend."""

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from edge_agent import __version__
from edge_agent.settings import BudgetSettings, Settings

if TYPE_CHECKING:
    from edge_agent.agent import Agent

_QUESTION = {"model": "edge", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}


@dataclass(frozen=True)
class Announcer:
    """Prints for people, or with `as_json` one JSON object a line for programs."""

    settings: Settings
    url: str
    pid: int
    as_json: bool
    stand_in: bool
    """The cloud is the reference cloud that we started."""
    asked_budget: dict[str, float | None]
    """Limits that flags asked for, by name."""

    def listening(self) -> None:
        """The first lines: the socket is bound, the model not loaded yet."""
        if self.as_json:
            _print_json(
                url=self.url,
                base_url=f"{self.url}/v1",
                pid=self.pid,
                data_dir=str(self.settings.data_dir),
                log=str(self.settings.database),
            )
            return
        _print(f"edge-agent {__version__} listens at {self.url} (OpenAI base URL: {self.url}/v1)")
        _line("try", self._curl())
        _line("log", f"{self.settings.database} (edge-agent logs tail)")

    def ready(self, agent: "Agent", load_s: float) -> None:
        """The rest, once the model is loaded after `load_s` seconds."""
        limits, adapter = agent.ledger.limits(), agent.engine.version
        if self.as_json:
            _print_json(
                status="ready",
                load_s=round(load_s, 3),
                model=agent.model.entry.name,
                adapter=adapter,
                cloud=self.settings.cloud.url,
                cloud_model=self.settings.cloud.model,
                reference_cloud=self.stand_in,
                budget=limits.model_dump(),
            )
        else:
            served = "no adapter yet" if adapter == "base" else f"adapter {adapter}"
            _line("model", f"{agent.model.entry.name} ({agent.model.path.name}), {served}")
            _line("cloud", self._cloud())
            _line("budget", describe_budget(limits))
            _line("ready", f"after {load_s:.1f} s; Ctrl-C ends it")
        for name, asked in self.asked_budget.items():
            if getattr(limits, name) != asked:
                typer.echo(
                    f"warning: {name} = {getattr(limits, name)} was stored by 'edge-agent budget "
                    f"set' and overrules the flag's {asked}",
                    err=True,
                )

    def _curl(self) -> str:
        key = self.settings.server.api_key_env
        header = f' -H "Authorization: Bearer ${key}"' if key else ""
        return (
            f"curl {self.url}/v1/chat/completions -H 'Content-Type: application/json'{header} "
            f"-d '{json.dumps(_QUESTION)}'"
        )

    def _cloud(self) -> str:
        cloud = self.settings.cloud
        if cloud.url is None:
            return "none: every query is answered locally (set cloud.url and cloud.model)"
        if self.stand_in:
            return (
                f"none is configured, so the reference cloud stands in at {cloud.url}: "
                "it is not a language model, it only answers generated exercises"
            )
        return f"{cloud.model} at {cloud.url}"


def _line(name: str, text: str) -> None:
    _print(f"  {name:<8}{text}")


def _print_json(**fields: Any) -> None:
    _print(json.dumps(fields))


def _print(line: str) -> None:
    # Whoever read the first line may have gone (`| head -1`); the daemon goes on.
    with contextlib.suppress(BrokenPipeError):
        typer.echo(line)


def describe_budget(limits: BudgetSettings) -> str:
    """The limits in force as one line."""
    parts = [
        f"{limits.rate:.0%} of any {limits.rate_window} queries" if limits.rate is not None else "",
        f"{limits.calls_per_day} calls a day" if limits.calls_per_day is not None else "",
        f"{limits.tokens_per_day} tokens a day" if limits.tokens_per_day is not None else "",
        f"${limits.usd_per_day:g} a day" if limits.usd_per_day is not None else "",
        f"${limits.usd_per_month:g} a month" if limits.usd_per_month is not None else "",
    ]
    found = ", ".join(part for part in parts if part)
    return f"the cloud gets at most {found}" if found else "no limit: every query may go out"
