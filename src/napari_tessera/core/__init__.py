"""What every room may use: errors, units, text files of strangers, the user's folder, and the settings of a run."""
