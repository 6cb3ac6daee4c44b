"""The sections of a report, a file each: a function of what was read of a run, and None where there are no data."""
