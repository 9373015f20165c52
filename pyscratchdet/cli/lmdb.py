"""`pyscratchdet lmdb`: convert_annoset's flags, syntax and records; plus whole sets, your own pictures, a view."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pyscratchdet.cli.console import say, show, show_json, warn
from pyscratchdet.errors import counted

_USAGE = """pyscratchdet lmdb [flags] ROOTFOLDER/ LISTFILE DB
       pyscratchdet lmdb voc VOCDEVKIT DB --split trainval [--years 2007,2012] [flags]
       pyscratchdet lmdb coco IMAGES INSTANCES.json[,MORE.json] DB [--without MINIVAL.json] [flags]
       pyscratchdet lmdb folder PICTURES ANNOTATIONS OUT [--split 0.8] [--seed N] [--label-map MAP] [--redo]
       pyscratchdet lmdb to-coco DB INSTANCES.json --label-map MAP
       pyscratchdet lmdb show DB [-o FOLDER] [--count N] [--model TRAIN.prototxt]"""

_EPILOG = """The first form is convert_annoset's. `voc` and `coco` make the list as well, store pictures as they are,
shuffle all but voc's lists named test or val, and write beside DB: DB_list.txt, DB_name_size.txt (for name_size_file)
and, for coco, DB_labelmap.prototxt; `to-coco` is the inverse. `folder` takes pictures of your own (a folder, a
VOCdevkit or a list) with annotations of any common form (a folder of VOC XML or YOLO txt, a COCO json, a CSV file). It
makes train_lmdb, test_lmdb and labelmap.prototxt in OUT, and data.html, a page of figures to look at first. Write a
folder that has one of these names with a slash. `show` lists records and draws them; with a model, it draws a page of
samples as the model's AnnotatedData layer augments them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments; flags take gflags' forms: --flag=value, --flag value, -flag, --noflag."""
    from pyscratchdet.cli.flags import add_flags, add_json_flag, add_schema_flags

    parser.usage, parser.epilog = _USAGE, _EPILOG
    parser.add_argument("words", nargs="+", metavar="ARGUMENT", help="as above")
    add_flags(parser, _FLAGS)
    parser.set_defaults(shuffle=None)
    parser.add_argument("--labelmap", "--label-map", dest="label_map_file", metavar="PROTOTXT",
                        help="the same as --label_map_file")  # fmt: skip
    parser.add_argument(
        "--split",
        metavar="LIST,...",
        help="voc: lists, such as trainval (the default) or 2007_test,2012_trainval; folder: share of the training "
        "pictures (default: the set's own lists or, if it has none, 0.8)",
    )
    parser.add_argument("--years", default="", metavar="YEAR,...", help="voc: years to take them from (default: all)")
    parser.add_argument("--without", default="", metavar="JSON", help="coco: leave out the images of this json")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="threads that read pictures (default: one per core)"
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="show: folder for the drawn records")
    parser.add_argument("--count", type=int, default=16, metavar="N", help="show: how many records")
    add_json_flag(parser, "show")
    parser.add_argument("--model", default="", metavar="PROTOTXT", help="show: draw samples as this net's data layer")
    parser.set_defaults(interruption="stops; the same line goes on from what is stored")
    add_schema_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Does what the first word says; where torchrun started several processes, the first one has the others help."""
    from pyscratchdet.cli.detector_options import at_least, sharing
    from pyscratchdet.data.team import Team
    from pyscratchdet.errors import UsageError
    from pyscratchdet.ranks import end_launched

    forms = {"voc": (_voc, 3), "coco": (_coco, 4), "folder": (_folder, 4), "to-coco": (_to_coco, 3), "show": (_show, 2)}
    form, words = forms.get(args.words[0], (_list, 3))
    if len(args.words) != words:
        raise UsageError("wrong number of arguments", code="usage.arguments", hint=f"usage: {_USAGE}")
    if args.json and (form is not _show or args.model):
        raise UsageError("--json is for the list of records", code="usage.option", expected="show without --model")
    if args.backend != "lmdb":
        raise UsageError("only LMDB is written", code="usage.backend", expected="lmdb", found=args.backend)
    at_least(0, args.workers, "--workers")
    at_least(0, args.count, "--count")
    _refuse_other_flags(args, args.words[0] if form is not _list else "")
    status = 0
    with sharing() as world:
        args.team = Team(args.workers, world)
        if world.is_root:
            status = form(args)
            args.team.end()
        else:
            args.team.help()
    end_launched()
    return status


def _list(args: argparse.Namespace) -> int:
    from pyscratchdet.data.lists import read_list

    root, list_file, database = args.words
    _write(args, root, read_list(list_file), database, _options(args), list_file)
    return 0


def _voc(args: argparse.Namespace) -> int:
    from pyscratchdet.data.voc import voc_entries

    _, root, database = args.words
    database = database.rstrip("/")
    entries = voc_entries(root, _split(args.split or "trainval"), _split(args.years))
    is_bare = args.without_objects or _is_test(args)
    options = _options(args, label_map_file=args.label_map_file or "voc", label_type="xml", without_objects=is_bare)
    return _write_set(root, entries, database, options, args)


def _coco(args: argparse.Namespace) -> int:
    from pyscratchdet.data.coco import read_coco, split_coco
    from pyscratchdet.data.label_map import write_label_map

    _, root, sources, database = args.words
    database = database.rstrip("/")
    sets = [read_coco(source) for source in _split(sources)]
    without = read_coco(args.without).images if args.without else ()
    label_map = args.label_map_file
    if not label_map and not sets[0].categories:
        label_map = "coco"
    if not label_map:
        label_map = f"{database}_labelmap.prototxt"
        write_label_map(label_map, sets[0].label_map())
    entries = split_coco(sets, root, f"{database}_annotations", without)
    # test-dev's json lists pictures without objects.
    is_bare = args.without_objects or not any(any(coco.annotations.values()) for coco in sets)
    options = _options(args, label_map_file=label_map, label_type="json", without_objects=is_bare)
    return _write_set(root, entries, database, options, args)


def _folder(args: argparse.Namespace) -> int:
    from pyscratchdet.data.own.findings import findings
    from pyscratchdet.data.own.folder import FolderMaker, FolderOptions
    from pyscratchdet.progress import Progress
    from pyscratchdet.prototxt import Options, own

    _, pictures, annotations, output = args.words
    options = FolderOptions(_share(args.split), args.seed or 0, args.label_map_file, args.redo)
    maker = FolderMaker(pictures, annotations, output, options, args.team)
    if maker.is_done:
        say(f"{output} is complete: nothing to do (--redo makes it anew)")
        return 0
    with Progress(maker.num_pictures) as progress:
        data = maker.prepare(progress)
    priors = own.prior_shares(own.build(data.figures(), Options())[0])
    with Progress(len(data.content.names), "records") as progress:
        figures = maker.write(data, priors, progress)
    say(f"{counted(len(figures.classes), 'class', 'classes')}: {', '.join(figures.classes)}")
    for name, part in (("train", figures.train), ("test", figures.test)):
        pictures = counted(part.pictures, "picture")
        say(f"{output}/{name}_lmdb: {pictures}, {counted(part.boxes, 'box', 'boxes')}")
    for line in (*data.notes, *findings(data, priors)):
        say(f"  {line}")
    say(f"look at {output}/data.html before you train")
    return 0


def _refuse_other_flags(args: argparse.Namespace, form: str) -> None:
    """Refuses the flags that a form does not read; `folder` always leaves out what is broken, so --skip_bad is true."""
    from pyscratchdet.errors import UsageError

    read = set(_READ.get(form, ())) | ({"skip_bad"} if form == "folder" else {"seed"} if args.model else set())
    if form not in ("folder", "to-coco", "show"):
        read |= set(_FLAGS)
    defaults = {name: default for name, (default, _) in _FLAGS.items()}
    defaults |= {"shuffle": None, "split": None, "years": "", "without": "", "output": None, "count": 16, "model": ""}
    if given := [name for name, default in defaults.items() if name not in read and getattr(args, name) != default]:
        shown = f"lmdb {form}" if form in _READ else "lmdb ROOTFOLDER/ LISTFILE DB"
        own = ", ".join(f"--{name.replace('_', '-')}" for name in _READ.get(form, ()))
        raise UsageError(f"`{shown}` does not take this", code="usage.option", found=f"--{given[0]}",
                         hint=f"flags of its own: {own}" if own else None)  # fmt: skip


def _share(text: str | None) -> float | None:
    from pyscratchdet.data.voc_xml import finite_number
    from pyscratchdet.errors import UsageError

    value = None if text is None else finite_number(text)
    if text is not None and value is None:
        raise UsageError("--split of `folder` is not a number", code="usage.split", expected="such as 0.8", found=text)
    return value


def _to_coco(args: argparse.Namespace) -> int:
    import json

    from pyscratchdet.data.coco import coco_of_records
    from pyscratchdet.data.database import Database
    from pyscratchdet.data.label_map import read_label_map
    from pyscratchdet.data.records import annotated_of, picture_of, record_title
    from pyscratchdet.errors import UsageError
    from pyscratchdet.files import write_text

    _, source, output = args.words
    if not args.label_map_file:
        raise UsageError("the categories need a label map", code="usage.label-map", hint="pass --label-map")
    records = ((picture_of(key), annotated_of(value, record_title(key, source))) for key, value in Database(source))
    content = coco_of_records(records, read_label_map(args.label_map_file))
    write_text(output, json.dumps(content))
    say(f"{output}: {counted(len(content['images']), 'image')}, {counted(len(content['annotations']), 'annotation')}")
    return 0


def _write_set(root: str, entries: list[tuple[str, str]], database: str, options: Any, args: argparse.Namespace) -> int:
    """Writes the database, and beside it the list and the sizes in its order."""
    from dataclasses import replace

    from pyscratchdet.data.annoset import size_line
    from pyscratchdet.files import write_text

    shuffle = not _is_test(args) if args.shuffle is None else args.shuffle
    options = replace(options, shuffle=shuffle, seed=0 if args.seed is None else args.seed)
    written = _write(args, os.path.join(root, ""), entries, database, options)
    _write_list(f"{database}_list.txt", [entry for entry, _, _ in written])
    write_text(f"{database}_name_size.txt", "".join(size_line(entry[0], *size) for entry, *size in written))
    return 0


def _write_list(path: str, entries: list[tuple[str, str]]) -> None:
    """Writes a list; where a name has blanks there is none, since a list is read word by word."""
    from pyscratchdet.files import write_text

    if blank := next((name for entry in entries for name in entry if len(name.split()) > 1), None):
        Path(path).unlink(missing_ok=True)  # an earlier database's
        warn(f"{path} is not written: names in a list cannot have blanks, as {blank!r} has")
        return
    write_text(path, "".join(f"{picture} {partner}\n" for picture, partner in entries))


def _is_test(args: argparse.Namespace) -> bool:
    """Whether all lists asked for are test sets; VOC2012's has no annotations."""
    names = {split.rpartition("_")[2] for split in _split(args.split or "trainval")}
    return args.words[0] == "voc" and names <= {"test", "val", "minival"}


def _write(
    args: argparse.Namespace,
    root: str,
    entries: list[tuple[str, str]],
    database: str,
    options: Any,
    list_file: str = "",
) -> list[Any]:
    """Writes a database, says what was skipped, and returns what was written."""
    from pyscratchdet.data.annoset import write_annoset
    from pyscratchdet.progress import Progress

    with Progress(len(entries)) as progress:
        summary = write_annoset(root, entries, database, options, progress, list_file, args.team)
    say(f"{database}: " + "\n".join(summary.lines()))
    return summary.written


def _show(args: argparse.Namespace) -> int:
    from itertools import islice

    from pyscratchdet.data.database import Database
    from pyscratchdet.data.records import record_title

    database = Database(args.words[1])
    names = _names(args.label_map_file)
    if not args.json:
        show(f"{database.path}: {counted(len(database), 'record')}")
    if args.model:
        return _show_samples(args, names)
    shown = []
    for key, value in islice(database, args.count):
        record = _record(key.decode(errors="replace"), value, record_title(key, database.path), names, args.output)
        if not args.json:
            _show_record(record)
        shown.append(record)
    if args.json:
        show_json({"database": str(database.path), "records": len(database), "shown": shown})
    return 0


def _show_record(record: dict[str, Any]) -> None:
    raw = "" if record["encoded"] else ", raw"
    show(f"{record['key']}  {record['width']} x {record['height']}, {record['bytes']} bytes{raw}")
    for one in record["objects"]:
        corners = " ".join(f"{value:.1f}" for value in one["box_px"])
        show(f"    {one['class']} {corners}" + (" difficult" if one["difficult"] else ""))


def _record(key: str, value: bytes, title: str, names: dict[int, str], folder: str | None) -> dict[str, Any]:
    """Returns what a record holds; draws it into a folder."""
    import cv2
    import numpy as np

    from pyscratchdet.data.objects import objects_of
    from pyscratchdet.data.records import annotated_of
    from pyscratchdet.data.transform import DataTransformer
    from pyscratchdet.detect.draw import draw_detections
    from pyscratchdet.detect.tables import ImageDetections
    from pyscratchdet.files import safe_file_name, write_bytes
    from pyscratchdet.proto import caffe_pb2

    record = annotated_of(value, title)
    objects = objects_of([record], [title])
    datum = record.datum
    scale = np.array([datum.width, datum.height] * 2, np.float32)
    if folder is not None:
        image = DataTransformer(caffe_pb2.TransformationParameter()).decode_datum(datum, title)
        found = ImageDetections(objects.labels, np.ones(len(objects), np.float32), objects.boxes * scale)
        data = cv2.imencode(".png", draw_detections(image, found, names))[1]
        write_bytes(os.path.join(folder, f"{safe_file_name(key)}.png"), bytes(data))
    boxes = (objects.boxes * scale).tolist()
    found_ones = [
        {"class": str(names.get(int(label), label)), "box_px": box, "difficult": bool(difficult)}
        for label, box, difficult in zip(objects.labels, boxes, objects.difficult, strict=True)
    ]
    size = {"width": datum.width, "height": datum.height, "bytes": len(datum.data), "encoded": datum.encoded}
    return {"key": key, **size, "objects": found_ones}


def _show_samples(args: argparse.Namespace, names: dict[int, str]) -> int:
    """Draws one page of augmented samples."""
    import cv2

    from pyscratchdet.detect.samples import sample_page
    from pyscratchdet.files import write_bytes
    from pyscratchdet.layers.plan import read_net

    page = sample_page(read_net(args.model).param, args.words[1], args.count, names, seed=args.seed or 0)
    path = os.path.join(args.output or ".", "samples.png")
    write_bytes(path, bytes(cv2.imencode(".png", page)[1]))
    say(f"{path}: {counted(args.count, 'sample')}")
    return 0


def _names(label_map_file: str) -> dict[int, str]:
    from pyscratchdet.data.label_map import label_to_name, read_label_map

    return label_to_name(read_label_map(label_map_file), display=True) if label_map_file else {}


def _options(args: argparse.Namespace, **fixed: Any) -> Any:
    from pyscratchdet.data.annoset import AnnosetOptions

    values = {name: getattr(args, name) for name in _FLAGS if name != "backend"}
    values["shuffle"] = bool(values["shuffle"])
    if fixed:
        from pyscratchdet.errors import UsageError

        if values["label_type"] not in ("xml", fixed["label_type"]):
            raise UsageError("a whole set says itself what its annotations are", code="usage.option",
                             expected=f"--label_type={fixed['label_type']}",
                             found=f"--label_type={values['label_type']}")  # fmt: skip
        fixed = {"anno_type": "detection", "check_label": True, "encoded": True, **fixed}
        fixed["encode_type"] = values["encode_type"] or "jpg"
    return AnnosetOptions(**{**values, **fixed})


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


# The flags of each form; those of convert_annoset are `voc`'s and `coco`'s too.
_READ = {
    "voc": ("split", "years"),
    "coco": ("without",),
    "folder": ("split", "seed", "label_map_file", "redo"),
    "to-coco": ("label_map_file",),
    "show": ("label_map_file", "output", "count", "model"),
}
_FLAGS: dict[str, tuple[Any, str]] = {
    "gray": (False, "store gray pictures"),
    "shuffle": (False, "shuffle the list first"),
    "backend": ("lmdb", "only lmdb is written"),
    "anno_type": ("classification", "classification or detection"),
    "label_type": ("xml", "annotation files: xml (VOC), json (COCO, one file per picture) or txt"),
    "label_map_file": ("", "label map prototxt, or voc or coco for the built-in ones"),
    "check_label": (False, "refuse a label map with duplicate names"),
    "min_dim": (0, "enlarge pictures whose smaller side is below this"),
    "max_dim": (0, "shrink pictures whose larger side is above this"),
    "resize_width": (0, "resize to this width"),
    "resize_height": (0, "resize to this height"),
    "check_size": (False, "refuse pictures of different sizes"),
    "encoded": (False, "store encoded pictures"),
    "encode_type": ("", "encoding (jpg, png...); pictures of that kind are stored as they are"),
    "seed": (None, "seed of --shuffle; default: from the operating system, and 0 for voc and coco"),
    "skip_bad": (False, "count and leave out broken annotations and objects, as unreadable pictures always are"),
    "redo": (False, "replace an existing database"),
    "without_objects": (False, "accept a list in which no picture has an object"),
}
