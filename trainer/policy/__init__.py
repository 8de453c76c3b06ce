"""The policy as torch sees it: weights, adapter, packed batches, one optimizer step."""
