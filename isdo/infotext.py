"""What a file says of how its pictures were made: the prompt's line, then "Key: value" pairs, as
the WebUIs write it."""

import re

OURS = "isdo "  # how the version of what wrote a file begins


def write(prompt, pairs):
    """Return the text."""
    return "\n".join([prompt, ", ".join(f"{key}: {value}" for key, value in pairs.items())])


def plain(value):
    """Return a value as text that does not end its pair: in one line, no space after commas and
    colons."""
    return re.sub(r"([,:])\s+", r"\1", " ".join(str(value).split()))


def read(text):
    """Return (prompt, {key: value}) of a text that isdo's command line has written; ("", {}) for
    anything else.

    Of a key that stands there twice the last one counts.
    """
    if not isinstance(text, str):
        return "", {}
    lines = text.split("\n")
    pairs = dict(pair.split(": ", 1) for pair in lines[-1].split(", ") if ": " in pair)
    return (lines[0], pairs) if pairs.get("Version", "").startswith(OURS) else ("", {})


def numbered(pairs):
    """Return the pairs with the keys of the last refinement numbered: those of the next one do not
    take their place."""
    times = 1 + len({match[1] for key in pairs if (match := re.match(r"Refine (\d+) ", key))})
    return {
        re.sub(r"^(Refine|ISDO refine) (?!\d)", rf"\1 {times} ", key): value
        for key, value in pairs.items()
    }
