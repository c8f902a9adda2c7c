"""What ISDO uses of its hosts: found in ISDO's own source, looked up in a host's, kept in
``snapshots/``.

    python tests/hostsnapshot.py a1111-1.10.1 FOLDER

FOLDER is the host's checkout or its git directory, and the commit is read from it (``--commit`` for
another one). Nothing of the host is run or imported: its files are parsed. A snapshot holds facts
only: which names exist, what functions take, in which order hooks come. `test_host_double.py`
compares every snapshot with the double of the hosts and with what ISDO uses.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOTS = Path(__file__).resolve().parent / "snapshots"
PLUGIN = (*sorted((ROOT / "isdo" / "hosts").glob("*.py")), ROOT / "scripts" / "isdo_webui.py")


@dataclass(frozen=True)
class Row:
    """One host: what it is called, where its source is published, and the folder of it there."""

    label: str
    version: str
    repository: str
    commit: str
    under: str = ""


HOSTS = {
    "a1111-1.8.0": Row(
        "AUTOMATIC1111",
        "1.8.0",
        "AUTOMATIC1111/stable-diffusion-webui",
        "bef51aed032c0aaa5cfd80445bc4cf0d85b408b5",
    ),
    "a1111-1.10.1": Row(
        "AUTOMATIC1111",
        "1.10.1",
        "AUTOMATIC1111/stable-diffusion-webui",
        "82a973c04367123ae98bd9abdf80d9eda9b910e2",
    ),
    "forge": Row(
        "Forge",
        "June 2025",
        "lllyasviel/stable-diffusion-webui-forge",
        "dfdcbab685e57677014f05a3309b48cc87383167",
    ),
    "reforge": Row(
        "reForge",
        "main, March 2026",
        "Panchovix/stable-diffusion-webui-reForge",
        "3b56b268ad9158ee8b30900973b6ccda4ec22241",
    ),
    "classic": Row(
        "Forge Classic",
        "February 2025",
        "Haoming02/sd-webui-forge-classic",
        "1f95d7170189cf93952aca122c1ee2f306a07e4c",
    ),
    # a redistribution: its first commit, before changes of its own
    "neo": Row(
        "Forge Neo",
        "2.26",
        "exo101/sd-webui-forge-neo-v3",
        "f95f632a107b64337b053f3e7719ac86165aa290",
        "webui",
    ),
}
LINKER = ("k_diffusion/external.py", "modules_forge/packages/k_diffusion/external.py")
FLOW_MARKS = (
    ("prediction_type", "backend/modules/k_prediction.py", "AbstractPrediction"),
    ("add_noise_to_latent", "modules/models/sd3/sd3_model.py", "SD3Inferencer"),
)
PARSERS = {"modules.shared": "modules/cmd_args.py"}  # of the flags that a module keeps
XYZ = ("scripts/xyz_grid.py", "extensions-builtin/xyz/lib_xyz/classes.py")  # most; Classic
PREDICTION = "backend/modules/k_prediction.py"
MODEL_SAMPLING = "ldm_patched/modules/model_sampling.py"
# Objects of the hosts: the classes that define them, (file, name); and (file, variable) through which
# the host sets more attributes on them.
CLASSES = {
    "processing": [
        ("modules/processing.py", f"StableDiffusionProcessing{tab}")
        for tab in ("", "Txt2Img", "Img2Img")
    ],
    "sampler": [
        ("modules/sd_samplers_common.py", "Sampler"),
        ("modules/sd_samplers_kdiffusion.py", "KDiffusionSampler"),
    ],
    "denoiser": [
        ("modules/sd_samplers_cfg_denoiser.py", "CFGDenoiser"),
        ("modules/sd_samplers_kdiffusion.py", "CFGDenoiserKDiffusion"),
    ],
    "state": [("modules/shared_state.py", "State")],
    "bar": [("modules/shared_total_tqdm.py", "TotalTQDM")],
    "sampler data": [("modules/sd_samplers_common.py", "SamplerData")],
    "scheduler": [("modules/sd_schedulers.py", "Scheduler")],
    "script": [("modules/scripts.py", "Script")],
    "script data": [("modules/scripts.py", "ScriptClassData")],
    "samples": [("modules/scripts.py", "PostSampleArgs")],
    "processed": [("modules/processing.py", "Processed")],
    "noise": [("modules/rng.py", "ImageRNG")],
    "conditioning": [("modules/prompt_parser.py", "MulticondLearnedConditioning")],
    "prompt": [("modules/prompt_parser.py", "ComposableScheduledPromptConditioning")],
    "option": [("modules/options.py", "OptionInfo")],
    "option pages": [("modules/options.py", "OptionsCategories")],
    "settings": [("modules/options.py", "Options")],
    "axis": [(file, "AxisOption") for file in XYZ],
    "predictor": [(PREDICTION, "AbstractPrediction")],
    "noise levels": [(PREDICTION, "Prediction"), (MODEL_SAMPLING, "ModelSamplingDiscrete")],
}
SET_BY = {
    "processing": [("modules/processing.py", "p"), ("modules/processing.py", "self")],
    "sampler": [("modules/sd_samplers.py", "sampler")],
    "denoiser": [
        (f"modules/sd_samplers_{file}.py", "self.model_wrap_cfg")
        for file in ("common", "kdiffusion")
    ],
}
# What variables of the plugin hold: the text of an expression, and the object that it is.
HELD = {
    "p": "processing", "run": "processing", "self.p": "processing", "self.picture": "processing",
    "sampler": "sampler", "host_s": "sampler", "p.sampler": "sampler", "self.sampler": "sampler",
    "denoiser": "denoiser", "self.denoiser": "denoiser", "model": "denoiser",
    "state": "state", "shared.state": "state", "bar": "bar", "shared.total_tqdm": "bar",
    "config": "sampler data", "host_s.config": "sampler data", "schedule": "scheduler",
    "script": "script", "data": "script data", "ps": "samples", "processed": "processed",
    "p.rng": "noise", "self.picture.rng": "noise", "run.rng": "noise",
    "conds": "conditioning", "done": "conditioning", "part": "prompt",
    "info": "option", "categories": "option pages", "axis": "axis", "plot": "plot",
    "predictor": "predictor", "table": "noise levels", "shared.opts": "settings", "body": "request",
}  # fmt: skip
# What the plugin's samplers set on themselves for the host to read.
SET_FOR_THE_HOST = ("config", "last_latent")
# What stands for functions of the hosts in the double, whether ISDO calls them by name or not.
DOUBLED = {
    "modules.sd_samplers": (
        "find_sampler_config", "set_samplers", "get_sampler_and_scheduler", "create_sampler", "sample_to_image",
    ),
    "modules.sd_samplers_common": ("setup_img2img_steps",),
    "modules.processing": ("process_images", "create_infotext"),
    "modules.images": ("save_image",),
    "sampler": (
        "__init__", "get_sigmas", "sample", "sample_img2img", "launch_sampling", "initialize", "callback_state",
    ),
    "denoiser": ("__init__", "forward"),
    "option": ("__init__",), "option pages": ("register_category",), "settings": ("add_option",),
    "script": (
        "elem_id", "run", "process", "process_batch", "before_hr", "process_before_every_sampling", "post_sample",
        "postprocess_image", "postprocess",
    ),
    "noise": ("__init__", "next"), "state": ("nextjob",), "bar": ("update", "updateTotal"),
    "processing": ("comment", "txt2img_image_conditioning", "save_samples"),
    "axis": ("__init__",), "predictor": ("noise_scaling",),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ what ISDO uses


@dataclass(frozen=True)
class Use:
    """One place where the plugin uses a name of a host.

    Attributes:
        holder: the object of `CLASSES`, or the module "modules.x", that has the name.
        guarded: whether the place copes with a host that lacks it.
        call: (number of positional arguments, names of the others, whether these are all) where it
            is called; None elsewhere.
    """

    holder: str
    name: str
    where: str
    guarded: bool
    call: tuple | None = None


CATCHES = {"ImportError", "AttributeError", "Exception"}


class Reader(ast.NodeVisitor):
    """Collects the uses of one file of the plugin."""

    def __init__(self, path):
        self.path, self.uses = path, []
        self.modules, self.optional, self.around, self.own = {}, set(), [], []
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.visit(self.tree)

    def visit(self, node):
        self.around.append(node)
        super().visit(node)
        self.around.pop()

    def visit_ImportFrom(self, node):
        if node.level or node.module.split(".")[0] not in ("modules", "backend"):
            return
        for alias in node.names:
            if node.module == "modules":
                name = f"modules.{alias.name}"
                self.modules[alias.asname or alias.name] = name
                self.note(name, "", node)
                if self.caught():
                    self.optional.add(name)
            else:
                self.note(node.module, alias.name, node)

    def visit_ClassDef(self, node):
        """Take what a class of ours does not define itself for its host's class's; a hook of a
        script for one of the host's."""
        bases = [ast.unparse(base).split(".")[-1] for base in node.bases]
        if "Script" in bases:
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    self.note("script", method.name, method)
        self.own.append(defined(node) if "KDiffusionSampler" in bases else None)
        self.generic_visit(node)
        self.own.pop()

    def visit_Attribute(self, node):
        self.generic_visit(node)
        holder = self.holder(node.value)
        if holder and not node.attr.startswith("isdo_"):
            above = self.around[-2] if len(self.around) > 1 else None
            call = (
                arguments(above)
                if isinstance(above, ast.Call) and above.func is node and holder != "request"
                else None
            )
            self.note(holder, node.attr, node, call=call)

    def visit_Call(self, node):
        self.generic_visit(node)
        function = ast.unparse(node.func)
        if function in ("getattr", "hasattr") and isinstance(node.args[1], ast.Constant):
            holder, name = self.holder(node.args[0]), node.args[1].value
            if holder and not name.startswith("isdo_"):
                self.note(holder, name, node, guarded=len(node.args) > 2 or function == "hasattr")
        if function == "import_module" and isinstance(node.args[0], ast.Constant):
            self.note(node.args[0].value, "", node)

    def holder(self, node):
        """Return the holder of an expression, or None where it is no host's."""
        text = ast.unparse(node)
        if text in self.modules:
            return self.modules[text]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            return node.args[0].value if isinstance(node.args[0], ast.Constant) else None
        if text in ("self", "super()") and self.own and self.own[-1] is not None:
            name = self.around[-1].attr if isinstance(self.around[-1], ast.Attribute) else ""
            return "sampler" if text == "super()" or name not in self.own[-1] else None
        return HELD.get(text)

    def note(self, holder, name, node, guarded=False, call=None):
        if holder == "settings" and (holder, name) != ("settings", "add_option"):
            holder = "option values"
        guarded = guarded or self.caught() or self.asked(name) or holder in self.optional
        self.uses.append(Use(holder, name, f"{self.path.name}:{node.lineno}", guarded, call))

    def caught(self):
        """Say whether the present place is in a try that copes with what is missing."""
        for outer, inner in zip(self.around, self.around[1:], strict=False):
            if isinstance(outer, ast.Try) and inner in outer.body:
                kinds = {
                    name
                    for each in outer.handlers
                    for name in re.findall(r"\w+", ast.unparse(each.type))
                }
                if kinds & CATCHES:
                    return True
        return False

    def asked(self, name):
        """Say whether the present place is behind a ``hasattr`` or ``getattr`` of that name."""
        for outer in self.around:
            tests = [outer.test] if isinstance(outer, (ast.If, ast.IfExp)) else []
            tests += [
                test for each in getattr(outer, "generators", ()) for test in each.ifs
            ]  # of a comprehension
            for call in (n for test in tests for n in ast.walk(test) if isinstance(n, ast.Call)):
                if ast.unparse(call.func) in ("hasattr", "getattr") and f"'{name}'" in ast.unparse(
                    call
                ):
                    return True
        return False


def arguments(call):
    """Return (number of positional arguments, names of the others, whether these are all); None
    where positional ones are unpacked."""
    if any(isinstance(each, ast.Starred) for each in call.args):
        return None
    names_ = tuple(each.arg for each in call.keywords if each.arg is not None)
    return len(call.args), names_, len(names_) == len(call.keywords)


def defined(node):
    """Return the names that a class's own methods define on ``self``."""
    names = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    for each in ast.walk(node):
        if (
            isinstance(each, ast.Attribute)
            and isinstance(each.ctx, ast.Store)
            and ast.unparse(each.value) == "self"
        ):
            names.add(each.attr)
    return names


@cache
def uses():
    """Return every Use of the plugin."""
    found = [use for path in PLUGIN for use in Reader(path).uses]
    ours = {
        name
        for path in PLUGIN
        for node in Reader(path).tree.body
        if isinstance(node, ast.ClassDef) and "Sampler" in node.name
        for name in defined(node)
    }
    overridden = {use.name for use in found if use.where and use.holder == "sampler"} & set(
        DOUBLED["sampler"]
    )
    found = [
        use
        for use in found
        if use.holder != "sampler" or use.name in overridden or use.name not in ours
    ]
    for module, names in literal("__init__.py", "NEEDS").items():
        found += [Use(module, name, "__init__.py", False) for name in names]
    found += [Use("sampler", name, "sampler.py", False) for name in SET_FOR_THE_HOST]
    for module, holder, _, _ in literal("picture.py", "PRECISION_FLAGS"):
        found.append(Use(module, holder, "picture.py", True))
    return tuple(found)


def literal(file, name):
    """Return a constant of a file of the plugin, which cannot be imported without a host."""
    tree = ast.parse((ROOT / "isdo" / "hosts" / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise LookupError(f"{file} has no {name}")


def wanted():
    """Return {holder: names} that a snapshot says something of."""
    found = {}
    for use in uses():
        found.setdefault(use.holder, set()).update({use.name} if use.name else ())
    for holder, names in DOUBLED.items():
        found.setdefault(holder, set()).update(names)
    return {holder: sorted(names) for holder, names in sorted(found.items())}


# ------------------------------------------------------------------------------------------------ what a host has


@dataclass
class Source:
    """The files of a host at one commit, or as they lie in a folder.

    Args:
        place: a checkout or a git directory.
        commit: None takes the files of the folder as they are.
        under: the folder of the WebUI in it.
    """

    place: Path
    commit: str | None = None
    under: str = ""
    trees: dict = field(default_factory=dict)

    def git(self, *args):
        return subprocess.run(
            ["git", "-C", str(self.place), *args], capture_output=True, text=True, errors="replace"
        )

    def text(self, file):
        """Return a file's text, or None."""
        if self.commit is None:
            path = Path(self.place, self.under, file)
            return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
        found = self.git("show", f"{self.commit}:{str(Path(self.under, file))}")
        return found.stdout if found.returncode == 0 else None

    def files(self, folder):
        """Return the Python files below a folder."""
        if self.commit is None:
            base = Path(self.place, self.under)
            return sorted(str(path.relative_to(base)) for path in (base / folder).rglob("*.py"))
        where = f"{Path(self.under, folder)}/"
        names = self.git("ls-tree", "-r", "--name-only", self.commit, where).stdout.splitlines()
        names = [name for name in names if name.endswith(".py")]
        return [str(Path(name).relative_to(self.under)) for name in names]

    def tree(self, file):
        if file not in self.trees:
            text = self.text(file)
            self.trees[file] = None if text is None else ast.parse(text.removeprefix("\ufeff"))
        return self.trees[file]

    def find(self, file, dotted):
        """Return the syntax of a class, function or assigned name of a file, or None."""
        node = self.tree(file)
        for name in dotted.split("."):
            node = node and next((each for each in bodies(node) if name in names(each)), None)
        return node

    def written(self, file, dotted):
        """Return the text of a class or function as Python writes it down, "" where there is
        none."""
        node = self.find(file, dotted)
        return "" if node is None else ast.unparse(node)


def bodies(node):
    """Yield the statements of a module or class; those of its ifs and trys, too."""
    for each in node.body:
        yield each
        for part in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(each, (ast.If, ast.Try, ast.With)):
                for inner in getattr(each, part, ()):
                    yield from bodies(inner) if isinstance(inner, ast.ExceptHandler) else (inner,)


def names(node):
    """Return the names that a statement binds."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.split(".")[0] for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return {each.id for target in targets for each in ast.walk(target) if hasattr(each, "id")}
    return set()


def fields_of(node):
    """Return the fields of a ``namedtuple(...)``, or None for another statement."""
    call = getattr(node, "value", None)
    if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("namedtuple"):
        return ast.literal_eval(call.args[1])
    return None


def signature(node):
    """Return what a function takes as "(name, other=default)": without annotations."""
    args = node.args
    for each in (
        *args.posonlyargs,
        *args.args,
        *args.kwonlyargs,
        *filter(None, (args.vararg, args.kwarg)),
    ):
        each.annotation = None
    return f"({ast.unparse(args)})"


def members(source, file, name):
    """Return {name: signature of a method, "attribute" of others} of a class, those of its bases in
    the same file, too; {} where there is no such class."""
    node = source.find(file, name)
    if node is None:
        return {}
    if fields_of(node):
        return dict.fromkeys(fields_of(node), "attribute")
    if not isinstance(node, ast.ClassDef):
        return {}
    found = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            found |= members(source, file, base.id)
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
            found |= {each.attr: "attribute"} if ast.unparse(each.value) == "self" else {}
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "self.register_buffer":
            found[each.args[0].value] = "attribute"
    for each in node.body:
        if isinstance(each, ast.FunctionDef):
            simple = any(re.search("property|setter", ast.unparse(d)) for d in each.decorator_list)
            found[each.name] = "attribute" if simple else signature(each)
        else:
            found |= dict.fromkeys(names(each), "attribute")
    return found


def constructor(source, file, node):
    """Return what a class takes: of its ``__init__``, its dataclass fields, or its tuple's."""
    if fields_of(node):
        return f"({', '.join(fields_of(node))})"
    if any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        takes = [
            each.target.id + (f"={ast.unparse(each.value)}" if each.value is not None else "")
            for each in fields
        ]
        return f"({', '.join(takes)})"
    method = next((each for each in node.body if "__init__" in names(each)), None)
    if method is not None:
        return signature(method).replace("(self, ", "(").replace("(self)", "()")
    for base in node.bases:
        found = source.find(file, base.id) if isinstance(base, ast.Name) else None
        if found is not None:
            return constructor(source, file, found)
    return "name"


def set_through(source, file, variable):
    """Return the attributes that a file sets on what a variable holds."""
    tree = source.tree(file)
    return {
        each.attr: "attribute"
        for each in (ast.walk(tree) if tree is not None else ())
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and ast.unparse(each.value) == variable
    }


def of_module(source, module, name):
    """Return what a module's name is: a signature, "name", or None where there is none; dotted
    names are members."""
    file = f"{module.replace('.', '/')}.py"
    first, _, rest = name.partition(".")
    if rest:
        return members(source, file, first).get(rest)
    node = source.find(file, first)
    if isinstance(node, ast.FunctionDef):
        return signature(node)
    if isinstance(node, ast.ClassDef):
        return constructor(source, file, node)
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):  # a = module.b
        return (
            of_module(source, f"modules.{ast.unparse(node.value.value)}", node.value.attr) or "name"
        )
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modules."):
        alias = next(each for each in node.names if first in (each.asname, each.name))
        return of_module(source, node.module, alias.name) or "name"
    if node is None:  # set by another function of the module through ``global``, or in a loop
        tree = source.tree(file)
        bound = any(
            isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store) and each.id == first
            for each in (ast.walk(tree) if tree is not None else ())
        )
        return "name" if bound else None
    return "name"


def option_values(source):
    """Return the keys of all options in the Settings."""
    return set(
        re.findall(
            r"""["'](\w+)["']\s*:\s*OptionInfo\(""", source.text("modules/shared_options.py")
        )
    )


def plot_of(source):
    """Return the names of the X/Y/Z plot's module, which is the script's own."""
    files = (XYZ[0], "extensions-builtin/xyz/scripts/xyz_grid.py")
    return {
        name for file in files if source.tree(file) for each in source.tree(file).body for name in names(each)
    }  # fmt: skip


def request_fields(source):
    """Return the texts that name fields of the API's requests."""
    return set(re.findall(r"""["'](\w+)["']""", source.text("modules/api/models.py")))


def look_up(source, holder, names_):
    """Return {name: what it is, None where it is missing} of one holder; None where the module or
    class is missing."""
    if holder == "option values":
        known = dict.fromkeys(option_values(source), "attribute")
    elif holder == "plot":
        known = dict.fromkeys(plot_of(source), "name")
    elif holder == "request":
        known = dict.fromkeys(request_fields(source), "attribute")
    elif holder in CLASSES:
        known = {}
        for place in CLASSES[holder]:
            known |= members(source, *place)
        if not known:
            return None
        for place in SET_BY.get(holder, ()):
            known = set_through(source, *place) | known
    else:
        if source.text(f"{holder.replace('.', '/')}.py") is None:
            return None
        return {name: of_module(source, holder, name) for name in names_}
    return {name: known.get(name) for name in names_}


# ------------------------------------------------------------------------------------------------ what a host does

BATCH = (
    "p.scripts.process(p)", "p.init(", "state.job_count = p.n_iter", "p.rng = rng.ImageRNG(", "p.scripts.process_batch(",
    "p.setup_conds()", "samples_ddim = p.sample(", "p.scripts.post_sample(p, ps)", "samples_ddim = ps.samples",
    "'already_decoded'", "state.nextjob()", "p.scripts.postprocess_image(p, pp)", "res = Processed(p",
    "p.scripts.postprocess(p, res)",
)  # fmt: skip
HIRES = (
    "self.is_hr_pass = True", "self.sampler = sd_samplers.create_sampler(", "shared.state.nextjob()",
    "self.rng = rng.ImageRNG(", "self.calculate_hr_conds()", "self.scripts.before_hr(self)",
    "self.sampler.sample_img2img(self, samples, noise,", "self.sampler = None",
    "decode_latent_batch(self.sd_model, samples", "self.is_hr_pass = False",
)  # fmt: skip


def in_order(text, parts, anchor):
    """Return the parts that a text has, in its order; what comes behind the third is looked for
    behind the anchor."""
    start = max(text.find(anchor), 0)
    at = {part: text.find(part, start if i > 2 else 0) for i, part in enumerate(parts)}
    return sorted((part for part in parts if at[part] >= 0), key=at.get)


def behaviour(source):
    """Return {what ISDO counts on: whether, or how, the host does it}."""
    samplers, processing = "modules/sd_samplers_kdiffusion.py", "modules/processing.py"
    sample = source.written(samplers, "KDiffusionSampler.sample")
    launch = source.written("modules/sd_samplers_common.py", "Sampler.launch_sampling")
    denoiser = source.written("modules/sd_samplers_cfg_denoiser.py", "CFGDenoiser")
    img2img = source.written(processing, "StableDiffusionProcessingImg2Img.sample")
    inner = source.written(processing, "process_images_inner")
    second = source.written(processing, "StableDiffusionProcessingTxt2Img.sample_hr_pass")
    api = "\n".join(source.text(file) for file in source.files("modules/api"))
    prompts = {
        name: source.written("modules/prompt_parser.py", name)
        for name in ("reconstruct_cond_batch", "reconstruct_multicond_batch")
    }
    linker = next(
        (
            source.written(file, "ForgeScheduleLinker.sigma_min")
            for file in LINKER
            if source.find(file, "ForgeScheduleLinker")
        ),
        None,
    )
    return {
        "fields of SamplerData": fields_of(
            source.find("modules/sd_samplers_common.py", "SamplerDataTuple")
        ),
        "fields of Scheduler": [
            each.target.id
            for each in getattr(source.find("modules/sd_schedulers.py", "Scheduler"), "body", ())
            if isinstance(each, ast.AnnAssign)
        ]
        or None,
        "the denoiser counts its calls": "self.step += 1" in denoiser,
        "the denoiser takes prompts by its count": "reconstruct_multicond_batch(cond, self.step)"
        in denoiser,
        "a sampler is asked for its parameters' names": "inspect.signature(self.func).parameters"
        in sample,
        "it is given sigmas": "extra_params_kwargs['sigmas'] = sigmas" in sample,
        "it is given extra_args and a callback": "self.func(self.model_wrap_cfg, x, extra_args="
        in sample
        and "callback=self.callback_state" in sample,
        "p overrides the schedule": "p.sampler_noise_scheduler_override(steps)"
        in source.written(samplers, "KDiffusionSampler.get_sigmas"),
        "order in a batch": in_order(inner, BATCH, "p.rng = rng"),
        "order in the second pass": in_order(second, HIRES, "shared.state.nextjob()"),
        "img2img samples with the sampler that p has": "self.sampler.sample_img2img(self, self.init_latent, "
        in img2img
        and "create_sampler" not in img2img,
        "img2img puts the kept area back": "samples * self.nmask + self.init_latent * self.mask"
        in img2img,
        "an interrupted sampler gives its last latent": "except InterruptedException:\n        return self.last_latent"
        in launch,
        "total steps are the sampler data's": "self.model_wrap_cfg.total_steps = self.config.total_steps(steps)"
        in launch,
        "the state has the sampling steps": "state.sampling_steps = steps" in launch,
        "beyond the end of a prompt's schedule is its beginning": all(
            "target_index = 0" in text and "if current_step <= entry.end_at_step:" in text
            for text in prompts.values()
        ),
        "the linker calls the predictor's sigma_min": None
        if linker is None
        else "return self.predictor.sigma_min()" in linker,
        "flow models are known by": [
            mark for mark, file, name in FLOW_MARKS if mark in source.written(file, name)
        ],
        "flags of full precision": [
            flag
            for module, _, name, flag in literal("picture.py", "PRECISION_FLAGS")
            if flag in (source.text(PARSERS.get(module, f"{module.replace('.', '/')}.py")) or "")
        ],
        "API paths": [
            path for path in ("/sdapi/v1/txt2img", "/sdapi/v1/img2img") if f'"{path}"' in api
        ],
        "the API cuts scripts' arguments": bool(
            re.search(r"min\(\s*\(?alwayson_script\.args_to - alwayson_script\.args_from", api)
        ),
        "elements of the page": page_elements(source),
    }


def page_elements(source):
    """Return {element of the page that ISDO's script reads: whether the host has it}; most are
    named after their tab."""
    script = (ROOT / "javascript" / "isdo.js").read_text(encoding="utf-8")
    found = re.findall(r'value\((?:"(\w+)"|`\$\{tab\}_(\w+)`)\)', script)
    texts = "\n".join(source.text(file) for file in source.files("modules"))
    asked = sorted({name or f"img2img_{rest}" for name, rest in found})
    return {
        name: bool(re.search(rf'"({name}|\{{(self\.)?tabname\}}_{name.partition("_")[2]})"', texts))
        for name in asked
    }


def snapshot(source):
    """Return the facts of a host: {"has": {holder: {name: what it is}}, "does": {...}}."""
    return {
        "has": {holder: look_up(source, holder, names_) for holder, names_ in wanted().items()},
        "does": behaviour(source),
    }


def stored():
    """Return {name: snapshot} of all that are kept."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(SNAPSHOTS.glob("*.json"))
    }


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name", choices=HOSTS)
    parser.add_argument("folder", type=Path, help="the host's checkout or git directory")
    parser.add_argument("--commit", help="another commit than that of the table HOSTS")
    asked = parser.parse_args(args)
    row = HOSTS[asked.name]
    source = Source(asked.folder, asked.commit or row.commit, row.under)
    found = source.git("rev-parse", f"{source.commit}^{{commit}}")
    if found.returncode:
        sys.exit(f"{asked.folder} has no commit {source.commit}: {found.stderr.strip()}")
    said = {
        "host": row.label, "version": row.version, "repository": row.repository, "commit": found.stdout.strip(),
        **({"folder": row.under} if row.under else {}),
    }  # fmt: skip
    path = SNAPSHOTS / f"{asked.name}.json"
    path.write_text(json.dumps(said | snapshot(source), indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {sum(len(names_ or ()) for names_ in snapshot(source)['has'].values())} names")


if __name__ == "__main__":
    main()
