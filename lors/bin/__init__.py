"""Command-line programs: each parses its options, calls the library and returns an exit code."""
