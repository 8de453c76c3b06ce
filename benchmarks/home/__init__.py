"""Voice commands of a smart home, from Home Assistant's own grammar, in two languages."""
