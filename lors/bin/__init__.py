"""Command-line programs: each parses its options, calls the library and returns an exit code."""

from lors.processes import end_with_driver

# Here, since programs take seconds to import what they need, and may be orphans after that.
end_with_driver()
