"""The core's tuned numbers: each with what it does, what stands for its absence, and where it was
chosen."""

from dataclasses import dataclass, field, fields

from ..fit import COHERENT

INFINITE = float("inf")


def tuned(value, without, says, chosen):
    """Return the dataclass field of a tuned number.

    Args:
        value: of the number.
        without: the value that leaves the rule out.
        says: what the number does.
        chosen: where it was chosen.
    """
    return field(default=value, metadata={"without": without, "says": says, "chosen": chosen})


@dataclass(frozen=True)
class Tuned:
    """The numbers; `bench --suite ablation` prints what leaving each out costs."""

    coherent: float = tuned(
        COHERENT,
        INFINITE,
        "share of the change of D that one number a mode must explain before it is believed; trust grows from there to 1",
        "analytic",
    )
    dim: float = tuned(
        0.5,
        INFINITE,
        "signal-to-noise ratio a/s up to which the steepness is measured; a run that begins above it is near",
        "zoo",
    )
    gentle: float = tuned(
        0.25,
        INFINITE,
        "steepness up to which the first prediction is bold and the first correction is answered",
        "analytic, zoo",
    )
    stiff: float = tuned(
        0.44,
        INFINITE,
        "steepness from which corrections are taken in part",
        "zoo",
    )
    stiff_length: float = tuned(
        0.6,
        0.0,
        "length of a step in log r from which that steepness counts in full",
        "zoo",
    )
    least: float = tuned(
        0.2,
        1.0,
        "the least part of a correction that is taken",
        "zoo",
    )
    rise: float = tuned(
        1.5,
        1.0,
        "the response to a correction grows to so many times what it is at first",
        "zoo",
    )
    between: float = tuned(
        1.5,
        1.0,
        "corrections interpolate in sigma to this power",
        "analytic, zoo",
    )
    reach: float = tuned(
        3.0,
        0.0,
        "so many times as far as the last step the end is foreseen at most",
        "zoo",
    )
    detail: float = tuned(
        0.15,
        0.0,
        "so much of the noise that is left may become detail in the last step",
        "zoo",
    )
    twin: float = tuned(
        0.05, 0.0,
        "a step that is shorter than this share of the one before it, in log sigma, is none",
        "analytic",
    )  # fmt: skip


TUNED = Tuned()


def table():
    """Return (name, value, value that leaves it out, what it does, where it was chosen) of each."""
    return [
        (each.name, each.default, *(each.metadata[key] for key in ("without", "says", "chosen")))
        for each in fields(Tuned)
    ]
