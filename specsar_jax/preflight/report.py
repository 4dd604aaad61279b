"""The report: what was found as one tree, and as text."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from specsar_jax.config import Config
from specsar_jax.devices.sharding import check_batch_size, make_mesh
from specsar_jax.preflight import surroundings, verdict
from specsar_jax.preflight.planned import Plan, plan
from specsar_jax.preflight.programs import needs

Report = dict[str, Any]
"""`versions`, `processes`, `devices`, `platform`, `cache`, `available_bytes` a device, `advice`, and `run`, None without a config: `name`,
`data`, `network`, `mesh`, `batch`, `needs`, `fits`, `starts`."""


def surroundings_report(processes: list[dict[str, Any]], doubts: list[str]) -> Report:
    """Returns the report without a run."""
    return {
        "versions": surroundings.versions(),
        "processes": processes,
        "devices": sum(of["devices"] for of in processes),
        "platform": processes[0]["platform"],
        "cache": surroundings.cache(),
        "available_bytes": surroundings.available_bytes(processes),
        "advice": doubts,
        "run": None,
    }


def with_run(
    report: Report, config: Config, name: str, devices: Sequence[Any] | None, tell: Callable[[str], None]
) -> Report:
    """Returns the report with that of a run.

    Args:
        report: of the surroundings.
        config: of the run, as it was given.
        name: of the config.
        devices: that are not here, to compile for; None for JAX's.
        tell: is told what is being done.

    Raises:
        ValueError: config and data set do not fit each other. That config and devices do not is part of the report.
    """
    of = plan(config)
    config, train = of.config, of.config.train
    run: dict[str, Any] = {"name": name, "data": of.data, "network": _network(of), "mesh": None, "batch": None}
    run |= {"needs": None, "fits": None, "starts": False}
    report = report | {"run": run}
    try:
        mesh = make_mesh(config.mesh, devices)
    except ValueError as error:
        return report | {"advice": [*report["advice"], str(error)]}
    data, model = mesh.shape["data"], mesh.shape["model"]
    run["mesh"] = {"data": data, "model": model, "parameters": config.mesh.parameters}
    eval_size = -(-train.eval_batch_size // data) * data  # as `shared_batch` has it
    run["batch"] = {
        "train": train.batch_size,
        "of_a_device": train.batch_size / data,
        "parts": train.accumulate,
        "crop_px": config.data.crop_px,
        "evaluation": eval_size,
        "evaluation_of_a_device": eval_size / data,
        "tile_px": of.tile_px,
    }
    try:
        check_batch_size(train.batch_size, mesh, "train.batch_size", train.accumulate)
    except ValueError as error:
        near = verdict.near_batch(train.batch_size, data * train.accumulate)
        return report | {"advice": [*report["advice"], f"{error}; take --config.train.batch_size={near}"]}
    found = needs(of, mesh, tell)
    run |= {
        "needs": {part: dataclasses.asdict(value) for part, value in found.items()},
        "fits": verdict.fits(found, report["available_bytes"]),
        "starts": True,
    }
    more = verdict.advice(config, found, report["available_bytes"], report["platform"], data)
    return report | {"advice": [*report["advice"], *more]}


def passes(report: Report) -> bool:
    """Returns whether nothing is known that would end the run: it starts, and fits as far as can be told."""
    run = report["run"]
    return run is None or (run["starts"] and run["fits"] is not False)


def text(report: Report) -> str:
    """Returns the report for people."""
    processes, run = report["processes"], report["run"]
    lines = [
        f"devices: {report['devices']} x {processes[0]['kind']}, {_counted(len(processes), 'process', 'processes')}"
    ]
    for of in processes:
        memory = [f"{_gb(of['memory_bytes'])} a device" if of["memory_bytes"] else "devices do not tell their memory"]
        memory += [f"{_gb(of['free_ram_bytes'])} of RAM free"] if of["free_ram_bytes"] else []
        driver = f"; {of['driver']}" if of["driver"] else ""
        lines.append(
            f"  {of['process']}: {of['host']}, {of['devices']} x {of['platform']}, {', '.join(memory)}{driver}"
        )
    lines.append(f"versions: {', '.join(f'{name} {number}' for name, number in report['versions'].items())}")
    lines.append(f"compiled programs: {_cache(report['cache'])}")
    if run is not None:
        lines += _run(run, report["available_bytes"], report["platform"])
    lines += [f"advice: {line}" for line in report["advice"]]
    return "\n".join(lines)


def _run(run: dict[str, Any], available: int | None, platform: str) -> list[str]:
    mesh, batch = run["mesh"], run["batch"]
    lines = [f"run: {run['name']}; {run['network']}", f"data: {run['data']}"]
    if mesh:
        lines.append(f"mesh: data {mesh['data']} x model {mesh['model']}, weights {mesh['parameters']}")
        parts = f" in {batch['parts']} parts" if batch["parts"] > 1 else ""
        lines.append(
            f"batch: {batch['train']} tiles of {batch['crop_px']} px a step{parts}, {batch['of_a_device']:g} a device; evaluation "
            f"{batch['evaluation']} of {batch['tile_px']} px, {batch['evaluation_of_a_device']:g} a device"
        )
    if run["needs"]:
        columns = ("weights", "optimizer", "batches", "temporaries", "total")
        lines.append("GB of a device:" + "".join(name.rjust(13) for name in columns))
        for part, of in run["needs"].items():
            shown = [_part(of, name) for name in columns]
            lines.append(
                f"  {part}".ljust(15)
                + "".join(value.rjust(13) for value in shown)
                + f"   compiled in {of['seconds']:.0f} s"
            )
            lines += [f"    {of['gave_up']}"] if of["gave_up"] else []
        lines.append(_verdict(run, available, platform))
    elif not run["starts"]:
        lines.append("does not start on these devices: nothing was compiled")
    return lines


def _part(of: dict[str, Any], name: str) -> str:
    if name in ("temporaries", "total") and (not of["told"] or (of["gave_up"] and not of[name])):
        return "?"
    return f"{of[name] / 1e9:.3f}"


def _verdict(run: dict[str, Any], available: int | None, platform: str) -> str:
    totals = [of["total"] for of in run["needs"].values()]
    most = max(totals) if all(totals) else 0  # 0 of one that the compiler gave up
    there = "of what there is" if available is None else f"of {_gb(available)}"
    if platform == "cpu" and available is not None:
        there += (
            " (the RAM that is free, shared by the CPU devices; Python, the compiler and reading take some of it too)"
        )
    says = {True: "fits", False: "DOES NOT FIT", None: "whether it fits is not known"}[run["fits"]]
    return f"{says}: {_gb(most) if most else 'more than the compiler can place'} {there}"


def _network(of: Plan) -> str:
    model = of.config.model
    more = ", rematerialised" if model.rematerialise else ""
    return f"{model.architecture}, branches {model.branches}, {of.parameters / 1e6:.2f} M weights, {model.compute_dtype}{more}"


def _cache(cache: dict[str, Any]) -> str:
    if cache["place"] is None:
        return "not kept"
    held = (
        ""
        if cache["programs"] is None
        else f" ({_counted(cache['programs'], 'program', 'programs')}, {cache['bytes'] / 1e6:.0f} MB)"
    )
    return f"kept in {cache['place']}{held}"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
