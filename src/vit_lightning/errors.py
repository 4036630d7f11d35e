"""The one exception meant for people: bad input, said plainly."""


class InputError(ValueError):
    """Something handed in cannot be used.

    The message says what was wrong, where, what was expected and what to do; the command line
    prints it as it stands and exits with code 2. A traceback would add nothing to it.
    """
