"""Which models of transformers' other tasks are exported, and right: every class of every head, from its own config.

Each class's default config is made small, filled with random weights, saved, and opened as `edgepress export` opens it,
by its task and in float32; the bundle's outputs are held against the class on inputs of several sizes
(coverage_verdicts.py). Small configs are those that tests/ has, else tiny_configs.py makes them.

- right: no output differs by more than 1e-4 of its largest value
- wrong: anything else that was exported
- refused: the export says why
- not made: transformers itself does not make or run a model of that config

Types that apps ship come first, one class of each and the tasks that apps ship first; then a second one of each, and so
on; then their classes without a head; then all other types. The first class of a type has two layers, or as few more as
have every kind of layer, the others, which differ from it by their heads, one. A sample names the processor that it was
tried on. Each has a process of its own with a limit on its processor time, so that a loaded machine changes no verdict.

    python benchmarks/coverage_tasks.py                      all of them, into results/coverage_tasks.jsonl (hours)
    python benchmarks/coverage_tasks.py --again              those that are not in that file yet
    python benchmarks/coverage_tasks.py --retry refused      those that were refused at another commit, too
    python benchmarks/coverage_tasks.py fill-mask vit        print the verdicts of some tasks and types
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping

os.environ["OMP_NUM_THREADS"] = "1"  # the models are small
os.environ["HF_HUB_OFFLINE"] = "1"

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import torch
import transformers
from common import COMMIT, RESULTS, host, save
from coverage_processes import Trial, tried, warm_up
from coverage_tables import VERDICTS, difference_or_reason
from coverage_tasks_tables import report
from coverage_verdicts import SEQUENCES, Verdict

from edgepress.exporter.doors.heads import find_head, head_names

ELSEWHERE = (  # the classes of feature-extraction, by what else a folder has and by what the class takes
    "sentence-similarity",
    "audio-feature-extraction",
    "image-feature-extraction",
)
FIRST = (  # what apps ship most
    *("image-classification", "object-detection", "semantic-segmentation", "depth-estimation"),
    *("audio-classification", "automatic-speech-recognition", *(head.name for head in SEQUENCES)),
    *("zero-shot-image-classification", "fill-mask", "text-classification", "token-classification"),
)
LAST = "feature-extraction"  # which nearly every type has
_SHIPPED = """
albert align altclip audio-spectrogram-transformer bart beit bert bit blip blip-2 bloom camembert canine
chinese_clip clap clip clipseg conditional_detr convbert convnext convnextv2 cvt d_fine dab-detr data2vec-audio
data2vec-text data2vec-vision deberta deberta-v2 deformable_detr deit depth_anything depth_pro detr dinov2
dinov2_with_registers distilbert dpt efficientnet electra encodec ernie ernie4_5 esm eurobert exaone4 falcon
falcon_h1 flaubert flava florence2 fnet focalnet funnel gemma gemma2 gemma3 gemma3_text git glm glm4 glpn gpt2
gpt_neo gpt_neox gpt_oss gptj granite granitemoe granitemoehybrid grounding-dino groupvit gte helium hgnet_v2
hiera hubert ibert jina_embeddings_v3 layoutlm layoutlmv2 layoutlmv3 led levit lfm2 lightglue lilt llama
longformer longt5 luke m2m_100 mamba marian markuplm mask2former maskformer mbart metaclip_2 mimi ministral
ministral3 mistral mixtral mobilebert mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 modernbert
modernbert-decoder moonshine moonshine_streaming mpnet mpt mt5 nemotron nomic_bert olmo olmo2 olmo3 olmoe
omdet-turbo oneformer opt owlv2 owlvit parakeet_ctc pegasus perceiver phi phi3 poolformer pvt pvt_v2 qwen2
qwen2_moe qwen3 qwen3_5 qwen3_5_text qwen3_moe qwen3_next regnet rembert resnet rf_detr roberta roformer rt_detr
rt_detr_v2 sam sam2 seamless_m4t segformer sew sew-d siglip siglip2 siglip2_vision_model siglip_vision_model
smollm3 speech_to_text speecht5 squeezebert stablelm starcoder2 superpoint swiftformer swin swin2sr swinv2 t5
t5gemma table-transformer timesformer umt5 unispeech unispeech-sat upernet videomae vilt vit vit_mae vit_msn
vitpose vits vivit wav2vec2 wav2vec2-bert wav2vec2-conformer wavlm whisper xclip xlm xlm-roberta xlm-roberta-xl
xlnet xmod yolos zoedepth
"""
SHIPPED = frozenset(_SHIPPED.split())  # types that apps ship
_FILE = RESULTS / "coverage_tasks.jsonl"


def classes() -> list[Trial]:
    """Each task with each type of model and class that it has: shipped types first, of each one, a second one, …"""
    heads = [*(find_head(name) for name in head_names() if name not in ELSEWHERE), *SEQUENCES]
    names = [*FIRST, *sorted({head.name for head in heads} - {*FIRST, LAST}), LAST]
    turns = Counter[str]()
    found: list[tuple[tuple[bool, bool, int], Trial]] = []
    for head in sorted(heads, key=lambda head: names.index(head.name)):
        for model_type in sorted(transformers.CONFIG_MAPPING):
            for name in dict.fromkeys(head.classes(model_type)):
                turns[model_type] += 1
                trial = Trial(head, model_type, name, 2 if turns[model_type] == 1 else 1)
                found.append(((model_type not in SHIPPED, head.name == LAST, turns[model_type]), trial))
    return [trial for _, trial in sorted(found, key=lambda one: one[0])]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("some", nargs="*", help="tasks and model_types; all by default")
    parser.add_argument("--again", action="store_true", help="go on with the file of results")
    parser.add_argument(
        "--retry", choices=VERDICTS, action="append", help="go on, with those of a verdict from another commit"
    )
    parser.add_argument("--jobs", type=int, default=1, help="classes tried at a time")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)

    known = classes()
    names = {trial.head.name for trial in known}
    unknown = {*args.some} - names - {trial.model_type for trial in known}
    if unknown:
        sys.exit(f"no task or type of model is called {', '.join(sorted(unknown))}")
    samples: dict[tuple[str, str], Verdict] = {}
    if (args.again or args.retry) and _FILE.is_file():
        read = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()[1:]]
        samples = {(sample["task"], sample["class"]): sample for sample in read}
    totals = Counter(task for task, _ in {(trial.head.name, trial.name) for trial in known})
    again = args.retry or ()
    done = {key for key, one in samples.items() if one["verdict"] not in again or one["commit"] == COMMIT}
    tasks, kinds = {*args.some} & names, {*args.some} - names
    left: dict[tuple[str, str], Trial] = {}
    for trial in known:
        key = trial.head.name, trial.name
        wanted = (not tasks or trial.head.name in tasks) and (not kinds or trial.model_type in kinds)
        if wanted and key not in done:
            left.setdefault(key, trial)  # some types share a class
    warm_up()
    processor = host()["cpu"]
    for trial, verdict in tried(left.values(), args.jobs):
        task = trial.head.name
        known_by = {"commit": COMMIT, "cpu": processor, "task": task, "model_type": trial.model_type}
        sample = {**known_by, "class": trial.name, **verdict}
        print(f"{task} {trial.name}: {sample['verdict']} {difference_or_reason(sample)}", flush=True)
        samples[task, trial.name] = sample
        if not args.some or args.again or args.retry:
            save("coverage_tasks", _counted(samples, totals))
    print(report(_counted(samples, totals)))


def _counted(samples: Mapping[tuple[str, str], Verdict], totals: Mapping[str, int]) -> list[Verdict]:
    """The samples, each with how many classes its task has."""
    return [{**sample, "of": totals[task]} for (task, _), sample in samples.items()]


if __name__ == "__main__":
    main()
