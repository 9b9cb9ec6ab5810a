"""MkDocs' hook: docstrings mark names in Sphinx's way, which Markdown does not know."""

import re


def on_post_page(output: str, **_) -> str:
    """Leave the name of the role away, and keep what it marks as code."""
    return re.sub(r':(?:attr|class|func|meth):(?=<code>)', '', output)
