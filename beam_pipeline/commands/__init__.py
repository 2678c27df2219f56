"""One file for each subcommand: its flags, its help and its run; and what run and demo share."""
