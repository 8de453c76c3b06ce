"""What the runtime costs on this machine: `edge-agent benchmark`."""
