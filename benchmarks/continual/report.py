"""The Markdown report: tables, the four questions, where it fails. Nothing is said unmeasured."""

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.continual import findings
from benchmarks.continual.records import write as write_json
from benchmarks.continual.summary import Row, Summary
from benchmarks.runtime.machine import describe, git_revision, versions

COLUMNS = (
    ("joint_during", "during"),
    ("joint_post_switch", "post-switch"),
    ("random_post_switch", "random"),
    ("oracle_post_switch", "oracle"),
    ("local_post_switch", "local only"),
    ("joint_forgetting", "forgetting"),
    ("joint_backward_transfer", "BWT"),
    ("local_forgetting", "local forg."),
    ("missed", "missed"),
    ("wasted", "wasted"),
    ("rate", "rate"),
    ("own_rate", "own rate"),
    ("apgr", "APGR"),
    ("area", "area"),
)
_WHEN = {"switch": "for each family as its phase begins", "all": "before the first phase"}
_LEGEND = """\
*during*: mean of R[i, i], joint reward on each phase's own family at its end. *post-switch*: mean,
after each switch, over all families seen so far. *random*: the same adapter asking at random at
the same rate; *oracle*: asking exactly where it gains, within τ. *local only*: post-switch, no
cloud. *forgetting*, *BWT*: of R after the last phase (joint; *local forg.*: of the local answers).
*missed*: share kept local where the cloud was better; *wasted*: share asked where it was not.
*rate*: realised with the ⌊τn⌋ highest scores of each family asked. *own rate*: mean p_offload, no
threshold moved. *APGR*: mean gap recovered over rates 10 … 100 %, chance is 0.55. *area*: under the
cost-quality curve. Means over seeds; ± is half the range between seeds."""
_SECOND_HAND = """\
- The papers' full texts were not at hand. Second-hand: λ₀ = 0.5, η_λ = 0.01, G = 8, the reward of
  0.8 for a cloud answer in GAPG. GAPG's filter is our reading of one sentence of its abstract. Its
  decision comes at the first position here, as for every method; the original decides after trying.
- The cloud is the reference cloud's answer to each item, right with the stated accuracy, drawn once
  from the question itself: the same for every method and seed, and without latency. A real cloud
  would add noise and cost, nothing that tells methods apart.
- A family is new when its phase begins, and every method learns it with supervision first, by as
  many steps; the first family's warm start (per seed and τ) is one and the same. Where the header
  says "before the first phase", there is one warm start on all families. SFT goes on with steps of
  the warm start's size, about what a step of rollouts costs, and draws none.
- Replay and KL are ours: the methods as published go on without. The study of ablations has
  DA-GRPO and GAPG with them.
- `sampled` lets the engine finish local rollouts whose place a cloud answer takes: equal compute.
- Adapters are measured as runtime LoRA, as the rollouts run, not merged as they would be served.
- λ of PID begins, in every phase, at a price measured on a few extra rollouts (3 to 8 % more than
  the other methods draw), except in the study of duals, where λ₀ is given.
- The warm start that all methods share teaches asking first where the answer is unlikely: that is
  ours. The ablation that asks at τ everywhere shows what it is worth."""


def write(summary: Summary, folder: Path, pictures: Sequence[Path]) -> Path:
    """Write `report.md` and `summary.json` into `folder`; returns the former's path."""
    about = _about(folder)
    write_json(folder / "summary.json", about | summary.as_dict())
    parts = [
        *_header(summary, about),
        *(f"![{picture.stem}]({picture.name})\n" for picture in pictures),
        *(_study(study, rows) for study, rows in summary.studies.items() if rows),
        _differences(summary),
        _matrices(summary),
        "## What it must answer\n\n" + "\n".join(findings.answers(summary)),
        "## Where it fails\n\n" + "\n".join(findings.failures(summary)),
        f"## How to read this\n\n{_LEGEND}\n\n{_SECOND_HAND}\n",
    ]
    path = folder / "report.md"
    path.write_text("\n\n".join(part.strip() for part in parts if part) + "\n", encoding="utf-8")
    return path


def _about(folder: Path) -> dict[str, Any]:
    """Command, machine and revision; those of the run stay where only the text is redone."""
    path = folder / "summary.json"
    arguments = [a for a in sys.argv[1:] if a not in ("--report-only", "--json")]
    about = {
        "command": shlex.join(["edge-agent", *arguments]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "versions": versions(),
        "git": git_revision(),
    }
    if "--report-only" in sys.argv and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        about |= {key: before[key] for key in about if key in before}
    return about


def _header(summary: Summary, about: dict[str, Any]) -> list[str]:
    protocol, machine, git = summary.protocol, about["machine"], about["git"]
    changed = " with local changes" if git.get("changed") else ""
    minutes = summary.seconds / 60
    lines = [
        f"# Continual learning under a budget: {protocol.name}\n",
        f"`{about['command']}`\n\n{about['at']}, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB. Revision {git.get('revision', 'unknown')[:12]}{changed}. "
        f"Versions: {', '.join(f'{name} {v}' for name, v in about['versions'].items())}.",
        f"{protocol.model}; families {' → '.join(protocol.families)}; τ = {protocol.rate:g}; "
        f"{protocol.seeds} seed{'s' if protocol.seeds > 1 else ''}; {protocol.steps} steps a phase "
        f"of {protocol.prompts_per_step} prompts × {protocol.group_size} rollouts; warm start of "
        f"{protocol.warm_steps} steps of {protocol.warm_examples}, {_WHEN[protocol.warm]}; cloud "
        f"accuracy {protocol.cloud_accuracy:g}. Training and measuring took {minutes:.0f} minutes.",
    ]
    if protocol.seeds == 1:
        lines.append(
            "**One seed**: intervals are over items only; they say nothing of another seed."
        )
    if summary.missing:
        lines.append("**Not done yet**: " + ", ".join(summary.missing) + ".")
    return lines


def _study(study: str, rows: Sequence[Row]) -> str:
    extra = {"budgets": "τ", "schedule": "τ", "duals": "λ₀"}.get(study)
    titles = ["method", *([extra] if extra else []), *(title for _, title in COLUMNS)]
    lines = [f"## Study: {study}\n", _line(titles), _line(["---"] * len(titles))]
    for row in rows:
        first = {"τ": row.variant.budget, "λ₀": row.variant.price}
        cells = [row.title, *([first[extra]] if extra else [])]
        lines.append(_line([*cells, *(number(row, name) for name, _ in COLUMNS)]))
    return "\n".join(lines)


def _differences(summary: Summary) -> str:
    if not summary.differences:
        return ""
    lines = [
        "## Ours minus the others, paired\n",
        "Post-switch joint reward by item and seed; 95 % bootstrap over seeds and items.\n",
        _line(["other", "difference", "interval", "seeds"]),
        _line(["---"] * 4),
    ]
    for d in summary.differences:
        row = summary.row(d.other)
        title = row.title if row else d.other
        interval = f"{d.low:+.3f} … {d.high:+.3f}"
        lines.append(_line([title, f"{d.mean:+.3f}", interval, str(d.seeds)]))
    return "\n".join(lines)


def _matrices(summary: Summary) -> str:
    """R[i, j], first seed."""
    lines = ["## R[i, j] of the first seed: joint (local)\n"]
    families = summary.protocol.families
    for row in summary.studies.get("main", ()):
        cells = row.outcomes[0].cells
        lines += [f"\n{row.title}\n", _line(["after", *families])]
        lines.append(_line(["---"] * (len(families) + 1)))
        for phase, values in enumerate(cells):
            name = families[phase - 1] if phase else "start"
            lines.append(_line([name, *(f"{c.joint:.2f} ({c.local:.2f})" for c in values)]))
    return "\n".join(lines) if len(lines) > 1 else ""


def number(row: Row, name: str) -> str:
    """Mean, and half the range between seeds where there are several."""
    values = row.values(name)
    if not values:
        return "–"
    text = f"{sum(values) / len(values):.3f}"
    return text if len(values) == 1 else f"{text} ± {(max(values) - min(values)) / 2:.3f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def print_table(summary: Summary) -> None:
    """The main study in the terminal."""
    console = Console()
    for study, rows in summary.studies.items():
        if not rows:
            continue
        table = Table(box=None, pad_edge=False, title=f"\n{study}", title_justify="left")
        table.add_column("")
        shown = COLUMNS[:6]
        for _, title in shown:
            table.add_column(title, justify="right")
        for row in rows:
            table.add_row(row.variant.label, *(number(row, name) for name, _ in shown))
        console.print(table)
