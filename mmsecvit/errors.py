"""The error that all refusals have in common."""


class InputError(ValueError):
    """A config, data, a checkpoint or an argument cannot work, as the message says in one sentence.

    The tools end with this sentence; every other error keeps its traceback.
    """
