"""The issue's four questions, answered from the figures in sentences that follow from them.

The Markdown report: tables, the four questions, where it fails. Nothing is said unmeasured.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.continual.records import pack
from benchmarks.continual.records import write as write_json
from benchmarks.continual.summary import TOLERANCE, Difference, Row, Summary, steps_in
from benchmarks.runtime.machine import describe, git_revision, versions

_AIM = 0.10
"""Joint reward over GAPG that is aimed at."""


def answers(summary: Summary) -> list[str]:
    """One entry for each question, in Markdown."""
    return [*_against(summary), *_forgetting(summary), *_rates(summary), *_ablations(summary)]


def _against(summary: Summary) -> list[str]:
    """1. At equal budget."""
    lines = ["1. **At equal budget, post-switch joint reward:**"]
    paper, ours = summary.row("da-grpo"), summary.row("ours")
    for difference in summary.differences:
        other = summary.row(difference.other)
        if other is not None and difference.other not in ("local-oracle", "always"):
            lines.append(f"   - ours against {other.title}: {_verdict(difference)}")
    gapg = next((d for d in summary.differences if d.other == "gapg"), None)
    if gapg is not None:
        met = "met" if gapg.mean >= _AIM else "missed"
        lines.append(f"   - the aim of {_AIM:+.2f} over GAPG is {met}: {gapg.mean:+.3f}")
    if paper is not None and ours is not None:
        a, b = paper.mean("joint_post_switch"), ours.mean("joint_post_switch")
        lines.append(f"   - DA-GRPO as published {a:.3f}, ours {b:.3f}")
    return lines if len(lines) > 1 else []


def _verdict(d: Difference) -> str:
    if d.low > 0:
        word = "better"
    elif d.high < 0:
        word = "**worse**"
    else:
        word = "not told apart"
    return f"{d.mean:+.3f} ({d.low:+.3f} … {d.high:+.3f}), {word}"


def _forgetting(summary: Summary) -> list[str]:
    ours, gapg = summary.row("ours"), summary.row("gapg")
    if ours is None or gapg is None:
        return []
    mine, other = ours.mean("joint_forgetting") or 0.0, gapg.mean("joint_forgetting") or 0.0
    met = "met" if mine <= other / 2 else "missed"
    return [f"   - half GAPG's forgetting: {met} (joint: ours {mine:+.3f}, GAPG {other:+.3f})"]


def _rates(summary: Summary) -> list[str]:
    """2. The rate, served by the daemon's decider and in training."""
    lines = [f"2. **Does the rate stay within ±{TOLERANCE:g} of τ?** Largest errors:"]
    width = summary.protocol.window
    for study in ("main", "schedule", "duals", "budgets"):
        lines += [
            f"   - {study}, {row.variant.label}: {_errors(row, width)}"
            for row in summary.studies.get(study, ())
            if row.variant.how.asks == "p_offload" and row.variant.how.dual != "none"
        ]
    return lines if len(lines) > 1 else []


def _errors(row: Row, width: int) -> str:
    parts = []
    for kind, unit, size in (
        ("served", "queries", width),
        ("training", "steps", steps_in(width)),
    ):
        errors = row.errors(kind, size)
        if errors:
            within = sum(abs(e) <= TOLERANCE for e in errors) / len(errors)
            worst = max(errors, key=abs)
            phrase = f"{kind} {worst:+.3f}, {within:.0%} of windows of {size} {unit} within"
            parts.append(phrase)
    return "; ".join(parts) or "no whole window"


def _ablations(summary: Summary) -> list[str]:
    """3. What each deviation is worth."""
    rows = summary.studies.get("ablations", ())
    ours = next((row for row in rows if row.variant.method == "ours"), None)
    if ours is None or len(rows) < 2:
        return []
    lines = ["3. **Which deviation matters?** Change when it is taken away:"]
    for row in rows:
        if row is not ours:
            parts = []
            for name, title in (
                ("joint_post_switch", "post-switch joint"),
                ("joint_forgetting", "forgetting"),
            ):
                mine, other = ours.mean(name), row.mean(name)
                if mine is not None and other is not None:
                    parts.append(f"{title} {other - mine:+.3f}")
            lines.append(f"   - {row.title}: {', '.join(parts)}")
    return lines


def failures(summary: Summary) -> list[str]:
    """4. What is no better than chance, lost ground, or left its budget.

    From the main study; where it was not run, from the others, each variant once.
    """
    lines = []
    width = summary.protocol.window
    main = summary.studies.get("main", ())
    every = {row.variant: row for rows in summary.studies.values() for row in rows}
    for row in main or every.values():
        name = row.title if main else row.variant.label
        if row.variant.how.asks not in ("p_offload", "router", "confidence"):
            continue
        for j, family in enumerate(summary.protocol.families):
            cells = [outcome.cells[-1][j] for outcome in row.outcomes]
            gain = sum(cell.joint - cell.random for cell in cells) / len(cells)
            if gain <= 0:
                lines.append(
                    f"- {name}, {family}: no better than random at the same rate "
                    f"({gain:+.3f} after the last phase)"
                )
            started = [outcome.cells[0][j].local for outcome in row.outcomes]
            lost = sum(c.local - s for c, s in zip(cells, started, strict=True)) / len(cells)
            if lost < -TOLERANCE:
                lines.append(f"- {name}, {family}: local answers end {lost:+.3f} below start")
        own = row.mean("own_rate")
        if row.variant.how.by_rate and own is not None:
            changed = row.variant.changed_rate
            error = own - (row.variant.rate if changed is None else changed)
            if abs(error) > TOLERANCE:
                lines.append(
                    f"- {name}: left alone it would ask for {own:.0%}, {error:+.2f} off τ; "
                    "the threshold makes up the difference"
                )
        served = [e for e in row.errors("served", width) if abs(e) > TOLERANCE]
        if served:
            lines.append(
                f"- {name}: {len(served)} windows of {width} served queries off τ by more "
                f"than {TOLERANCE:g} (worst {max(served, key=abs):+.3f})"
            )
    return lines or ["- Nothing of what is looked for here. That is no proof."]


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
    write_json(
        folder / "summary.json", about | summary.as_dict() | {"phases": pack(summary.phases)}
    )
    parts = [
        *_header(summary, about),
        *(f"![{picture.stem}]({picture.name})\n" for picture in pictures),
        *(_study(study, rows) for study, rows in summary.studies.items() if rows),
        _differences(summary),
        _matrices(summary),
        "## What it must answer\n\n" + "\n".join(answers(summary)),
        "## Where it fails\n\n" + "\n".join(failures(summary)),
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
    cells = []
    for row in rows:
        first = {"τ": row.variant.budget, "λ₀": row.variant.price}
        begins = [row.title, *([first[extra]] if extra else [])]
        cells.append([*begins, *(number(row, name) for name, _ in COLUMNS)])
    return f"## Study: {study}\n\n{table(titles, cells)}"


def _differences(summary: Summary) -> str:
    if not summary.differences:
        return ""
    rows = []
    for d in summary.differences:
        row = summary.row(d.other)
        interval = f"{d.low:+.3f} … {d.high:+.3f}"
        rows.append([row.title if row else d.other, f"{d.mean:+.3f}", interval, str(d.seeds)])
    return (
        "## Ours minus the others, paired\n\n"
        "Post-switch joint reward by item and seed; 95 % bootstrap over seeds and items.\n\n"
        + table(["other", "difference", "interval", "seeds"], rows)
    )


def _matrices(summary: Summary) -> str:
    """R[i, j], first seed."""
    lines = ["## R[i, j] of the first seed: joint (local)\n"]
    families = summary.protocol.families
    for row in summary.studies.get("main", ()):
        cells = row.outcomes[0].cells
        found = [
            [name, *(f"{c.joint:.2f} ({c.local:.2f})" for c in values)]
            for name, values in zip(("start", *families), cells, strict=True)
        ]
        lines.append(f"\n{row.title}\n\n{table(['after', *families], found)}")
    return "\n".join(lines) if len(lines) > 1 else ""


def number(row: Row, name: str) -> str:
    """Mean, and half the range between seeds where there are several."""
    values = row.values(name)
    if not values:
        return "–"
    text = f"{sum(values) / len(values):.3f}"
    return text if len(values) == 1 else f"{text} ± {(max(values) - min(values)) / 2:.3f}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def print_table(summary: Summary) -> None:
    """The main study in the terminal."""
    console = Console()
    for study, rows in summary.studies.items():
        if not rows:
            continue
        shown_table = Table(box=None, pad_edge=False, title=f"\n{study}", title_justify="left")
        shown_table.add_column("")
        shown = COLUMNS[:6]
        for _, title in shown:
            shown_table.add_column(title, justify="right")
        for row in rows:
            shown_table.add_row(row.variant.label, *(number(row, name) for name, _ in shown))
        console.print(shown_table)
