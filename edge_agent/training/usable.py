"""Which queries of the log can be trained on: conditions on a row of `query`, in SQL."""

from edge_agent.log.token_ids import COUNT

LONGEST_PROMPT = 2048
"""Tokens. Longer prompts are not trained on: a step holds activations for all of its tokens."""

READABLE = f"""(
    NOT query.private AND query.tools IS NULL
    AND {COUNT.format("query.prompt_ids")} BETWEEN 1 AND {LONGEST_PROMPT}
)"""
"""The trainer may and can read it."""

ANSWERED = """(
    coalesce(trim(query.reference), '') <> ''
    OR EXISTS (SELECT 1 FROM feedback WHERE query_id = query.id
               AND trim(coalesce(reference, correction)) <> '')
    OR EXISTS (SELECT 1 FROM response JOIN choice ON choice.seq = response.seq
               WHERE response.seq = query.seq AND response.source = 'cloud'
               AND finish_reason = 'stop' AND choice.tool_calls IS NULL AND trim(text) <> '')
    OR EXISTS (SELECT 1 FROM audit WHERE query_id = query.id
               AND audit.error IS NULL AND trim(text) <> '')
)"""
"""There is something to grade an answer against."""

USABLE = f"{READABLE} AND {ANSWERED}"
