"""Items to grade."""

from typing import Any

from trainer.data.items import Item


def make_item(reference: str, question: str = "?", grader: Any = None, **fields: Any) -> Item:
    """An item with only what graders read."""
    return Item(
        query_id=f"{reference}/{question}/{grader}",
        at=0.0,
        prompt_ids=(1,),
        question=question,
        cluster="c",
        reference=reference,
        reference_source="client",
        grader=grader,
        **fields,
    )
