"""`python -m edge_agent` is `edge-agent`."""

from edge_agent.cli.root import main

main()
