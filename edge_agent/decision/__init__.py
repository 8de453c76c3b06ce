"""From p_offload to a route: the decider, its threshold, off-policy estimates."""
