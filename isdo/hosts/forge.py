"""What Forge and its family do differently."""

from contextlib import contextmanager
from operator import attrgetter

TABLES = (
    "forge_objects.unet.model.predictor",
    "forge_objects.unet.model.model_sampling",
)  # Forge and Neo; reForge, Classic


@contextmanager
def steady_mask(denoiser, x):
    """Keep the noise of an inpainting's kept area for one model call, as AUTOMATIC1111 does.

    Forge noises that area anew at each call, from the global generator. The model sees it, and D of
    the painted area moves by 12 to 64 % of |x - D| without x having moved: a multistep sampler
    would take that for a slope, and the picture would depend on its neighbours in the batch. x has
    the right noise there already: it is what the kept area's own ODE says.

    Args:
        denoiser: the host's; on hosts without a predictor, or without a mask, nothing happens.
        x: (B, C, ...) what the call is made with.
    """
    predictor = getattr(denoiser.inner_model, "predictor", None)
    if denoiser.mask is None or predictor is None:
        yield
        return
    kept = vars(predictor).get("noise_scaling")
    predictor.noise_scaling = lambda *args, **kwargs: x
    try:
        yield
    finally:
        if kept is None:
            del predictor.noise_scaling
        else:
            predictor.noise_scaling = kept


def noise_table(sd_model):
    """Return what holds the noise levels that a checkpoint is called with, or None on hosts that
    have no such thing."""
    for name in TABLES:
        try:
            table = attrgetter(name)(sd_model)
        except AttributeError:
            continue
        if hasattr(table, "set_sigmas"):
            return table
    return None


@contextmanager
def noise_levels(sd_model, sigmas):
    """Have a checkpoint called with the noise levels that its picture was drawn with.

    For zero terminal SNR the hosts change them while a picture is sampled, and change them back
    before it is finished.

    Args:
        sd_model: the host's.
        sigmas: of its table when the picture was sampled; None changes nothing.
    """
    table = noise_table(sd_model)
    if table is None or sigmas is None or table.sigmas is sigmas:
        yield
        return
    usual = table.sigmas
    table.set_sigmas(sigmas)
    try:
        yield
    finally:
        table.set_sigmas(usual)


def has_own_flow_grid():
    """Say whether the host knows a grid for the loaded flow model by itself (Forge Neo: Flux.2
    Klein)."""
    try:
        from backend.args import dynamic_args
    except ImportError:
        return False
    return bool(getattr(dynamic_args, "klein", False))
