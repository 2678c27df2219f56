"""The subcommands that run things: `run`, `demo`, `broker`."""
