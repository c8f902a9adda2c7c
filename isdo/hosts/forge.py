"""What Forge and Forge Neo do differently."""

from contextlib import contextmanager


@contextmanager
def steady_mask(denoiser, x):
    """Keep the noise of an inpainting's kept area for one model call, as AUTOMATIC1111 does.

    Forge noises that area anew at each call, from the global generator. The model sees it, and D of the painted area moves
    by 12 to 64 % of |x - D| without x having moved: a multistep sampler would take that for a slope, and the picture would
    depend on its neighbours in the batch. x has the right noise there already: it is what the kept area's own ODE says.

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


def has_own_flow_grid():
    """Say whether the host knows a grid for the loaded flow model by itself (Forge Neo: Flux.2 Klein)."""
    try:
        from backend.args import dynamic_args
    except ImportError:
        return False
    return bool(getattr(dynamic_args, "klein", False))
