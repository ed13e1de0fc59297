"""The settings of the commands: flags, environment, file and defaults."""
