"""``edgepress plan``: what an export would do."""

import argparse
from pathlib import Path

from edgepress.commands.export import add_model_arguments

NAME = "plan"
HELP = (
    "print what an export would do to each tensor; reads no weights, unless a [budget] or float16 [activations] must "
    "be measured, or the recipe prunes"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model_arguments(parser)
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="estimate speed and memory on a device, such as raspberry-pi-5, or by a .toml file",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan as a table or JSON."""
    import json
    from tempfile import TemporaryDirectory

    from edgepress.cores import usable_cores
    from edgepress.exporter import decide
    from edgepress.exporter.decide.encoder_decoder import decide_encoder_decoder, is_encoder_decoder
    from edgepress.exporter.decide.estimate import estimate
    from edgepress.exporter.decide.on_device import estimate_on, lines_of
    from edgepress.exporter.decide.opening import refuse_task
    from edgepress.exporter.decide.report import (
        format_estimate,
        format_plan,
        format_traced,
        plan_to_json,
        traced_to_json,
    )
    from edgepress.exporter.decide.traced import decide_traced, refuse_of_language_models
    from edgepress.exporter.doors.kinds import Options, find_door
    from edgepress.exporter.doors.samples import read_samples
    from edgepress.targets import FALLBACK
    from edgepress.targets.devices import find_roofline
    from edgepress.terminal.progress import progress

    roofline = None if arguments.device is None else find_roofline(arguments.device)
    door, both = find_door(arguments.model), is_encoder_decoder(arguments.model, arguments.revision)
    if door is not None or both:
        refuse_of_language_models(
            arguments.model,
            context_length=None,
            adapters=arguments.adapter,
            slots=arguments.adapter_slots,
        )
    if both:
        found = decide_encoder_decoder(
            arguments.model,
            target=arguments.target or FALLBACK,
            recipe=arguments.recipe,
            socs=arguments.soc,
            context_length=arguments.context,
            task=arguments.task,
            revision=arguments.revision,
            samples=arguments.calibration,
        )
        print(json.dumps(traced_to_json(found), indent=2) if arguments.json else format_traced(found))
        return 0
    if door is not None:
        with TemporaryDirectory(prefix="edgepress-") as folder:
            traced = door.open(arguments.model, Options(arguments.task, arguments.revision), Path(folder))
            planned = decide_traced(
                traced,
                target=arguments.target or FALLBACK,
                recipe=arguments.recipe,
                socs=arguments.soc,
                context_length=arguments.context,
                samples=read_samples(arguments.calibration, traced) if arguments.calibration else None,
                folder=Path(folder),
            )
            print(json.dumps(traced_to_json(planned), indent=2) if arguments.json else format_traced(planned))
        return 0
    prepared = decide(
        arguments.model,
        target=arguments.target or FALLBACK,
        recipe=arguments.recipe,
        socs=arguments.soc,
        context_length=arguments.context,
        calibration=arguments.calibration,
        revision=arguments.revision,
        adapters=arguments.adapter,
        adapter_slots=arguments.adapter_slots,
        progress=progress,
    )
    refuse_task(arguments.model, arguments.task)
    estimated = estimate(prepared, usable_cores())
    device = None if roofline is None else estimate_on(prepared, roofline)
    if arguments.json:
        content = plan_to_json(prepared, estimated)
        print(json.dumps(content if device is None else {**content, "device": device.to_json()}, indent=2))
    else:
        device_lines = [] if device is None or roofline is None else lines_of(device, roofline)
        print("\n".join([format_plan(prepared), *format_estimate(estimated), *device_lines]))
    return 0
