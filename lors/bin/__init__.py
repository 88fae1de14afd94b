"""Command-line programs: each parses its options, calls the library and returns an exit code."""

from lors.processes import end_with_driver

# Here, because the imports of a program take seconds, in which its parent may end.
end_with_driver()
