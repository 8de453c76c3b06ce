"""Which queries of the log can be trained on: conditions on a row of `query`, in SQL."""

READABLE = "(NOT query.private AND query.tools IS NULL AND length(query.prompt_ids) > 1)"
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
