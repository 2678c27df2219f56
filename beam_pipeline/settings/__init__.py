"""What a command line, the environment and a YAML file say: flags, their sources, printing them."""
