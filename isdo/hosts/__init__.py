"""The WebUIs ISDO plugs into: what it needs of one, told by capability and never by a version
number."""

from importlib import import_module
from operator import attrgetter

NEEDS = {
    "modules.scripts": ("Script", "AlwaysVisible", "scripts_data"),
    "modules.script_callbacks": ("on_app_started", "on_before_ui", "on_ui_settings"),
    "modules.sd_samplers": (
        "all_samplers",
        "all_samplers_map",
        "create_sampler",
        "sample_to_image",
        "set_samplers",
    ),
    "modules.sd_samplers_common": ("SamplerData", "setup_img2img_steps"),
    "modules.sd_samplers_kdiffusion": (
        "KDiffusionSampler.get_sigmas",
        "KDiffusionSampler.sample_img2img",
    ),
    "modules.shared": ("opts", "OptionInfo", "options_section", "state", "total_tqdm"),
    "modules.devices": ("autocast", "without_autocast"),
    "modules.errors": ("report",),
    "modules.images": ("save_image",),
    "modules.processing": ("process_images", "create_infotext"),
    "modules.rng": ("ImageRNG.next",),
}


class UnsupportedHost(ImportError):
    """The program that loads the plugin is no WebUI that ISDO can work in."""


def check_host():
    """Look for what the plugin needs of its host.

    Raises:
        UnsupportedHost: what is missing, and what to do.
    """
    missing = []
    for module, names in NEEDS.items():
        try:
            found = import_module(module)
        except ImportError:
            missing.append(module)
            continue
        for name in names:
            try:
                attrgetter(name)(found)
            except AttributeError:
                missing.append(f"{module}.{name}")
    if missing:
        raise UnsupportedHost(
            f"this WebUI has no {', '.join(missing)}: ISDO stays off. It needs AUTOMATIC1111 1.8 or newer, Forge, reForge, "
            "Forge Classic or Forge Neo; update the WebUI or ISDO"
        )
