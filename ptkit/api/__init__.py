"""ptkit in Python: what each command does, as a function that returns a record and prints nothing.

The commands call these functions too. Every error that the user can fix is a `PtkitError`.
"""
