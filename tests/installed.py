"""What `make wheel` asks an installed ISDO, far from the repository: is all of it there?"""

import sys
from importlib.metadata import files, metadata, version
from pathlib import Path

import torch

import isdo

HERE = Path(__file__).parents[1]
package = Path(isdo.__file__).parent
assert HERE not in package.parents or ".venv-wheel" in package.parts, (
    f"{package} is the repository's"
)
assert version("isdo") == isdo.__version__
inside = {str(path) for path in files("isdo")}
assert "isdo/py.typed" in inside, "type checkers would take the package for untyped"
for name in ("LICENSE", "NOTICE"):
    assert any(path.endswith(f"licenses/{name}") for path in inside), f"{name} is not in the wheel"
known = {path.relative_to(HERE).as_posix() for path in (HERE / "isdo").rglob("*.py")}
assert known == {path for path in inside if path.endswith(".py")}, (
    "modules are missing, or are of an older build"
)

# the weights are there, and the one command of the README works without a host, a bench or a test
model = isdo.zoo.load("eps")
sigmas = isdo.schedules.karras(2, model.sigma_min, model.sigma_max)
picture = isdo.sample_isdo(model, model.sigma_max * torch.randn(1, 3, 32, 32), sigmas, disable=True)
assert picture.shape == (1, 3, 32, 32) and picture.isfinite().all()
assert not {"matplotlib", "scipy", "gradio", "k_diffusion", "pytest"} & set(sys.modules)
print(f"isdo {isdo.__version__} of {package}: {metadata('isdo')['Summary']}")
