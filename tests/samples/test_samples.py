"""Samples from every form that they come in, and what is wrong with those that cannot be used."""

import csv
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.feeder import Feeder
from edgepress.samples.read import FEWEST, feed_of, feeds_of, known_forms, read_samples, some_of
from edgepress.samples.sample import Sample
from edgepress.tasks.answers import Answers, Classes
from edgepress.tasks.images import Images
from edgepress.tasks.sound import Sound
from edgepress.tasks.task import Edge, Task

LABELS = ("cat", "dog")


def png(value: int) -> bytes:
    image = pytest.importorskip("PIL.Image", reason="images are decoded by Pillow")
    file = io.BytesIO()
    image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def wav(value: int) -> bytes:
    data = np.full(8, value, "<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    return b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data


def classifier() -> Feeder:
    """A task that takes images of 4 × 4 pixels."""
    answers = Answers(classes=Classes(output="logits", labels=LABELS))
    inputs = (Edge("x", "float32", ("batch", 3, 4, 4)),)
    outputs = (Edge("logits", "float32", ("batch", 2)),)
    return Feeder(Task("image-classification", inputs, outputs, images=Images(input="x"), answers=answers), Path())


def means(feeds: Any) -> list[float]:
    return [float(np.mean(feed["x"])) for feed in feeds]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of each class, in a folder of its own."""
    for number in range(10):
        path = tmp_path / "images" / LABELS[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (tmp_path / "images" / "cat" / "notes.md").write_text("no sample")
    (tmp_path / "images" / ".hidden").mkdir()
    (tmp_path / "images" / ".hidden" / "a.png").write_bytes(b"none either")
    return tmp_path / "images"


def test_files_of_a_folder_have_the_class_of_the_folder_they_are_in(folder: Path) -> None:
    samples = read_samples(folder, "image")
    assert [sample.label for sample in samples] == ["cat"] * 5 + ["dog"] * 5
    assert [Path(str(sample.value)).name for sample in samples][:3] == ["0.png", "2.png", "4.png"]
    assert means(feed_of(sample, classifier()) for sample in samples) == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]


def test_a_table_beside_them_says_what_files_are(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.wav").write_bytes(wav(number))
    (tmp_path / "labels.csv").write_text("file_name,label\n2.wav,loud\n0.wav,quiet\n")
    samples = read_samples(tmp_path, "sound")
    assert [(Path(str(sample.value)).name, sample.label) for sample in samples] == [
        ("2.wav", "loud"),
        ("0.wav", "quiet"),
    ]
    sound = Sound(input="x", rate=8000)
    task = Task("audio-classification", (Edge("x", "float32", ("batch", "n")),), (Edge("y", "float32", ("batch", 2)),))
    made = feed_of(samples.number(0), Feeder(Task(task.name, task.inputs, task.outputs, sound=sound), tmp_path))
    np.testing.assert_allclose(made["x"], np.full((1, 8), 2 / 2**15))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_rows_are_texts_pairs_and_their_labels(tmp_path: Path, ending: str) -> None:
    rows: list[dict[str, Any]] = [
        {"sentence1": 'He said "no",\nand left', "sentence2": "Nein", "score": "4.5"},
        {"sentence1": "Grüße", "sentence2": "Hi", "score": "1"},
    ]
    path = tmp_path / f"pairs.{ending}"
    if ending == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if ending == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    samples = list(read_samples(path, "text"))
    assert [sample.value for sample in samples] == [(row["sentence1"], row["sentence2"]) for row in rows]
    assert [sample.label for sample in samples] == ["4.5", "1"]


def test_arrays_of_a_file_are_images_or_inputs_by_their_names(tmp_path: Path) -> None:
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.array([1, 0, 1]))
    samples = list(read_samples(tmp_path / "images.npz", "image"))
    assert [sample.label for sample in samples] == [1, 0, 1]
    assert means(feed_of(sample, classifier()) for sample in samples) == [0, 1, 2]
    np.savez(tmp_path / "inputs.npz", a=np.arange(6.0).reshape(3, 2), b=np.arange(3))
    feed = read_samples(tmp_path / "inputs.npz", "arrays").number(2).value
    assert isinstance(feed, dict)
    np.testing.assert_array_equal(feed["a"], [[4, 5]])
    np.testing.assert_array_equal(feed["b"], [2])


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="saved datasets are read by the datasets library")
    pyarrow = pytest.importorskip("pyarrow")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(LABELS))})
    rows = {"image": [{"bytes": png(number), "path": None} for number in range(3)], "label": [1, 0, 1]}
    table = datasets.table.InMemoryTable(pyarrow.table(rows, schema=features.arrow_schema))
    # with a fingerprint, as the library would pickle itself for one, which some versions of its parts cannot
    dataset = datasets.Dataset(table, info=datasets.DatasetInfo(features=features), fingerprint="0")
    dataset.save_to_disk(str(tmp_path / "saved"))
    samples = list(read_samples(tmp_path / "saved", "image"))
    assert [sample.label for sample in samples] == ["dog", "cat", "dog"]
    assert means(feed_of(sample, classifier()) for sample in samples) == [0, 1, 2]
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(InputError, match=r"has the splits train, test; name the folder of one, such as .*both.test"):
        read_samples(tmp_path / "both", "image")
    assert len(read_samples(tmp_path / "both" / "test", "image")) == 3


def test_a_function_gives_samples_or_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_samples.py").write_text(
        "import numpy as np\n"
        "def images():\n    return ((np.full((4, 4, 3), n, np.uint8), 'cat') for n in range(3))\n"
        "def pairs():\n    return [('a', 'b'), ('c', 'd')]\n"
        "def named():\n    return [('1.png', 'cat'), ('2.png', np.int64(1))]\n"
        "def labelled():\n    return [(('a', 'b'), 'yes'), ('c', np.float32(0.5)), ('d', 2)]\n"
        "silence = np.zeros(3, np.float32)\n"
        "def sounds():\n    return [(silence, 8000), ((silence, 8000), 1), (silence, 1), ('b.wav', 'no')]\n"
        "def nothing():\n    return []\n"
        "def wrong():\n    return 5\n"
        "def fails():\n    yield 'a'\n    raise OSError('no disk')\n"
        "number = 5\n"
    )
    (tmp_path / "broken_samples.py").write_text("def images(:\n")
    monkeypatch.chdir(tmp_path)
    samples = list(read_samples("own_samples:images", "image"))
    assert means(feed_of(sample, classifier()) for sample in samples) == [0, 1, 2]
    assert [sample.label for sample in samples] == ["cat"] * 3
    assert [sample.value for sample in read_samples("own_samples:pairs", "text")] == [("a", "b"), ("c", "d")]
    named, labelled = read_samples("own_samples:named", "image"), read_samples("own_samples:labelled", "text")
    assert [(one.value, one.label) for one in named] == [("1.png", "cat"), ("2.png", 1)]
    assert [(one.value, one.label) for one in labelled] == [(("a", "b"), "yes"), ("c", 0.5), ("d", 2)]
    assert not any(isinstance(one.label, np.generic) for one in (*named, *labelled))
    sounds = list(read_samples("own_samples:sounds", "sound"))
    assert [sample.label for sample in sounds] == [None, 1, 1, "no"]
    assert [isinstance(sample.value, tuple) for sample in sounds] == [True, True, False, False]
    for name, said in [
        ("own_samples:nothing", "has no samples"),
        ("own_samples:wrong", "gave int"),
        ("own_samples:number", "is int, not a function"),
        ("own_samples:fails", r"own_samples:fails failed at .*own_samples.py:\d+: OSError: no disk"),
        ("own_samples:missing", "cannot be imported"),
        ("broken_samples:images", r"broken_samples:images cannot be imported from .*: SyntaxError: "),
        ("no_such_module:samples", "cannot be imported"),
    ]:
        with pytest.raises(InputError, match=said):
            read_samples(name, "image")


def test_feeds_are_the_same_in_each_pass_and_spread_over_the_source(folder: Path) -> None:
    feeds = feeds_of(some_of(read_samples(folder, "image"), 8), classifier())
    first = means(feeds())
    assert first == means(feeds())
    assert len(set(first)) == 8
    other = feeds_of(some_of(read_samples(folder, "image"), 8, seed=3), classifier())
    assert means(other()) != first
    assert len(means(feeds_of(some_of(read_samples(folder, "image"), 1000), classifier())())) == 10


def test_too_few_samples_and_samples_of_one_class_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=f"has 5 samples; ranges are taken over at least {FEWEST}"):
        feeds_of(some_of(read_samples(folder / "cat", "image"), 8), classifier())
    for number in range(20, 30):
        (folder / "cat" / f"{number}.png").write_bytes(png(number))
    for path in (folder / "dog").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="are of the class cat, and the model tells 2 apart"):
        feeds_of(some_of(read_samples(folder, "image"), 12), classifier())
    feeds_of(some_of(read_samples(folder / "cat", "image"), 12), classifier())  # nothing is known of their classes


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "cat" / "2.png").write_bytes(png(2)[:50])
    feeds = feeds_of(some_of(read_samples(folder, "image"), 10), classifier())
    with pytest.raises(InputError, match=r"2\.png cannot be decoded"):
        list(feeds())
    with pytest.raises(InputError, match=r"x\.npz\[3\]: the image is an array of float32"):
        feed_of(Sample(np.zeros((4, 4, 3), np.float32), None, "x.npz[3]"), classifier())


@pytest.mark.parametrize(
    ("name", "content", "takes", "said"),
    [
        ("x.csv", "file\n../outside.png\n", "image", r"names \.\./outside\.png, which is not in"),
        ("x.csv", "file\n/etc/hostname\n", "image", "which is not in"),
        ("x.csv", "file\nC:\\\\images\\\\a.png\n", "image", "which is not in"),
        ("x.csv", "file\nmissing.png\n", "image", "has no such file"),
        (
            "x.csv",
            "wrong\na.png\n",
            "image",
            "its first line names no column that is known",
        ),
        ("x.csv", "file,label\n,cat\n", "image", "x.csv:2: its file is empty"),
        ("x.csv", "sentence2,label\na,cat\n", "text", "x.csv:2 has sentence2, label; a text is one of"),
        ("x.csv", "text,label\na,b,c\n", "text", "x.csv:2 has another number of columns"),
        ("x.csv", 'text,label\n"a\n', "text", "cannot be read"),
        ("x.csv", "text,label\n", "text", "has no samples"),
        ("x.csv", b"\xff\xfe\x00", "text", "UTF"),
        ("x.jsonl", "{}\n", "text", "has nothing; a text is one of"),
        ("x.jsonl", "[1]\n", "text", "x.jsonl:1 cannot be read"),
        ("x.jsonl", "\n\n", "text", "is empty"),
        ("x.jsonl", '{"text": null}', "text", "x.jsonl:1: its text is empty"),
        ("x.bin", b"\0", "image", r"is not known as samples; samples are a table \(\.csv, \.tsv\)"),
        ("x.npz", b"no archive", "image", r"no \.npz file"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path: Path, name: str, content: str | bytes, takes: Any, said: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=said):
        list(read_samples(tmp_path / name, takes))


@pytest.mark.parametrize(
    ("arrays", "takes", "said"),
    [
        ({"images": np.zeros((3, 2, 2, 3)), "labels": np.zeros(2)}, "image", r"no one number of rows.*labels \(2,\)"),
        ({"pictures": np.zeros(3)}, "image", "one of images, x"),
        ({"x": np.zeros(3)}, "text", "takes texts"),
        ({"x": np.float32(3)}, "arrays", "no one number of rows"),
    ],
)
def test_arrays_that_are_no_samples_are_refused(
    tmp_path: Path, arrays: dict[str, NDArray[np.generic]], takes: Any, said: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=said):
        read_samples(tmp_path / "x.npz", takes)


def test_a_folder_without_samples_and_a_link_out_of_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    with pytest.raises(InputError, match=r"has no files of \.wav"):
        read_samples(tmp_path / "inside", "sound")
    with pytest.raises(InputError, match="is not there; samples are"):
        read_samples(tmp_path / "nowhere", "sound")
    (tmp_path / "secret.wav").write_bytes(wav(1))
    (tmp_path / "inside" / "a.wav").symlink_to(tmp_path / "secret.wav")
    with pytest.raises(InputError, match="link out of its directory"):
        read_samples(tmp_path / "inside", "sound")


def test_every_form_has_a_file() -> None:
    assert len(known_forms()) >= 5
