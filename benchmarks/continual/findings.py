"""The issue's four questions, answered from the figures in sentences that follow from them."""

from benchmarks.continual.summary import TOLERANCE, Difference, Row, Summary, steps_in

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
