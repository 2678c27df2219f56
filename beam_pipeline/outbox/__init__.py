"""The dead-letter topic, fed from the dead-letter files that are in place. No Beam."""
