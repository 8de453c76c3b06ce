"""Voice commands of a smart home, as Home Assistant's own grammar has them: real work, two languages."""
