"""Why the ledger refuses a call, as errors that name the limit and say what to do."""

from edge_agent.budget.limits import MONEY, Beyond, Calendar, Totals, states, to_usd
from edge_agent.errors import BudgetExhausted
from edge_agent.settings import BudgetSettings


def refuse_unknown_price(limits: BudgetSettings, model: str) -> None:
    """Raise BudgetExhausted for a `model` without a price, if a limit is about money."""
    money = [name for name in MONEY if getattr(limits, name) is not None]
    if money:
        raise BudgetExhausted(
            f"{money[0]} is set, but the price of {model!r} is not known: set it in the "
            f'configuration, e.g. cloud.prices."{model}" = {{ input = 0.15, output = 0.60 }} '
            "(USD per million tokens), or lift the limit",
            limit="price",
        )


def exhausted(
    name: str, limits: BudgetSettings, totals: Totals, calendar: Calendar, *, now: float
) -> BudgetExhausted:
    """The refusal of a call for which the limit `name` has no room; `now` in Unix seconds."""
    state = states(limits, totals, totals, calendar)[name]
    if name == "rate":
        message = (
            f"the cloud has had {totals.window} of the last {limits.rate_window} queries; "
            f"the budget allows {state.limit:g}"
        )
        return BudgetExhausted(message, limit=name)
    used = f"{state.reserved:g} of {state.limit:g}"
    assert state.resets_at is not None
    return BudgetExhausted(
        f"the budget's {name} leaves no room for this call: {used} used or reserved",
        limit=name,
        retry_after_s=max(0.0, state.resets_at - now),
    )


def explain_beyond(error: BudgetExhausted, beyond: Beyond, model: str) -> BudgetExhausted:
    """`error`, which then says that hidden tokens or unforeseen costs were to be reserved too."""
    if error.limit in ("rate", "calls_per_day") or beyond == Beyond():
        return error
    return BudgetExhausted(
        f"{error.message}; {model} may bill {beyond.tokens} hidden tokens and "
        f"{to_usd(beyond.nano_usd):g} USD beyond its answer (cloud.max_hidden_tokens)",
        limit=error.limit,
        retry_after_s=error.retry_after_s,
    )
