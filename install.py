"""Run by the WebUI at every start: looks, installs nothing, imports neither torch nor ISDO."""

from importlib.util import find_spec

missing = [name for name in ("torch", "numpy", "safetensors", "tqdm") if find_spec(name) is None]
if missing:
    print(
        f"ISDO: the WebUI's environment has no {', '.join(missing)}; start the WebUI once without extensions to complete it"
    )
