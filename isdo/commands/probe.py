"""python -m isdo probe: where a model's pictures bend."""

from .. import files, gallery, models
from ..probe import measure_curvature
from ..schedules import curvature_sigmas, karras
from .arguments import EACH, LABEL, SEEDS, device, fraction, whole
from .batches import unlabelled

SUMMARY = "measure where a model's pictures bend, and the levels that follow from it"


def add_arguments(parser):
    """Give the command's parser its arguments."""
    add = parser.add_argument
    models.add_flags(add, "eps", "what is measured (%(default)s)")
    add("--label", **LABEL, help=EACH)
    add("--guidance", type=fraction(0), help="as for sample (1)")
    add("--steps", type=whole(3), default=24, help="calls of the run that measures (%(default)s)")
    calls = {"nargs": "+", "default": [6, 8, 10, 12], "metavar": "N"}
    add("--calls", type=whole(1), **calls, help="of which levels are made (6 8 10 12)")
    count = "pictures of that run (%(default)s)"
    add("--count", type=whole(1, gallery.PIXELS), default=8, help=count)
    add("--seed", type=whole(0, SEEDS), default=0, help="of the first picture (%(default)s)")
    add("--json", metavar="FILE", help="write the table and the levels there")
    stored = "measure anew the curves that ISDO stores (isdo.schedules), and print them"
    add("--stored", action="store_true", help=stored)
    add("--device", **device())


def run(args):
    """Measure a model's spectral curvature in one short run, and print the levels that the schedule
    curvature makes of it."""
    from ..bench.report import markdown, write_json

    if args.stored:
        from ..zoo.curve import STORED, stored

        for name in STORED:
            curve = stored(name)
            print(name)
            for column, row in (("ratios", curve.ratios), ("values", curve.values)):
                print(f"{column}: {', '.join(f'{value:.3g}' for value in row)}")
        return
    out = args.json if args.json is None else files.check_target(args.json)
    given = unlabelled(models.asked(args))
    model, seeds = given.model, range(args.seed, args.seed + args.count)
    sigmas = karras(args.steps, model.sigma_min, model.sigma_max)
    x = (sigmas[0] * gallery.noise(seeds, given.shape)).to(given.device)
    extra = given.extra_args(given.classes(range(args.count)))
    found = measure_curvature(model, x, sigmas.to(given.device), extra)
    ends = model.sigma_min, model.sigma_max
    levels = {n: curvature_sigmas(n, *ends, found, model.path).tolist() for n in args.calls}
    rows = list(zip(found.ratios, found.values, strict=True))
    print(f"{given.title}, path {model.path.name}, {args.count} pictures, {args.steps} calls\n")
    body = [[f"{ratio:.4g}", f"{value:.4g}"] for ratio, value in rows]
    print(markdown(["noise to signal", "curvature"], body))
    for n, sigmas in levels.items():
        print(f"\n{n} calls: {', '.join(f'{sigma:.4g}' for sigma in sigmas)}")
    if out is not None:
        about = {
            "model": given.title,
            "path": model.path.name,
            "seed": args.seed,
            "images": args.count,
            "steps": args.steps,
        }
        write_json(about | {"ratios": found.ratios, "values": found.values, "levels": levels}, out)
