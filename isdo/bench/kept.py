"""Rows of measurements that are kept between runs, so that what is measured is not measured again."""


def key_of(row, names):
    """Return what tells a row from others: its entries of these names, None for one it lacks."""
    return tuple(row.get(name) for name in names)


def by_key(rows, names):
    """Return {key: row}."""
    return {key_of(row, names): row for row in rows}


def merged(old, new, names):
    """Return the rows of ``new``, after those of ``old`` that they do not replace."""
    replaced = by_key(new, names)
    return [row for row in old if key_of(row, names) not in replaced] + list(new)
