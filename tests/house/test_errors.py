"""What an error says, and that files are whole or absent."""

import os
import re
import stat
from pathlib import Path

import pytest

from pyscratchdet.cli import COMMANDS, main
from pyscratchdet.errors import FileError, LayerError, NetError, Position, counted, nearest
from pyscratchdet.files import atomic_path, read_bytes, write_text
from pyscratchdet.layers.base import layer_class, register
from pyscratchdet.layers.relu import ReLU


def test_every_part_is_printed_in_order():
    error = LayerError(
        "num_output does not divide by group",
        code="layer.group",
        position=Position("net.prototxt", 12, 3, "  convolution_param { num_output: 5 group: 2 }"),
        layer="conv1",
        layer_type="Convolution",
        expected="a multiple of 2",
        found=5,
        hint="raise num_output",
    )
    assert str(error) == (
        'net.prototxt:12:3: layer "conv1" (Convolution): num_output does not divide by group, '
        "expected a multiple of 2 and found 5; raise num_output [layer.group]\n"
        "    convolution_param { num_output: 5 group: 2 }"
    )


def test_nearest_names_what_was_meant():
    assert nearest("convolution", ["Convolution", "Concat"]) == 'did you mean "Convolution"?'
    assert nearest("zzz", ["Convolution"]) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("RelU", 'did you mean "ReLU"? docs/own_layer.md'),
        ("InnerProdukt", 'did you mean "InnerProduct"? docs/own_layer.md'),
        ("MnActivation", "defined by intel/caffe; docs/own_layer.md"),
        ("Pooling3D", "docs/own_layer.md"),
    ],
)
def test_unknown_layer_type_names_what_is_meant_or_whose_it_is_and_how_to_register_one(name, says):
    with pytest.raises(NetError) as caught:
        layer_class(name)
    assert caught.value.hint == f"{says} shows how to register a type of your own"


def test_registering_twice_is_refused():
    with pytest.raises(NetError, match="registered twice"):
        register("ReLU")(ReLU)


def test_atomic_write_leaves_the_old_file_when_the_new_one_fails(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_written_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "folder" / "file.txt", "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "folder" / "file.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, "picture"), "1 picture"),
        ((0, "picture"), "0 pictures"),
        ((2, "axis", "axes"), "2 axes"),
        ((1, "axis", "axes"), "1 axis"),
        ((12345, "value", "", ","), "12,345 values"),
    ],
)
def test_a_count_has_its_noun(arguments, text):
    assert counted(*arguments) == text


def test_missing_file_and_impossible_target(tmp_path):
    with pytest.raises(FileError, match="No such file"):
        read_bytes(tmp_path / "none")
    write_text(tmp_path / "file", "")
    with pytest.raises(FileError, match="cannot write"):
        write_text(tmp_path / "file" / "below", "")


def test_unknown_command_is_one_line_and_status_2(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == 'pyscratchdet: unknown command "trian"; did you mean "train"?\n'


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("convert_annoset --anno_type=detection a b c", "here it is `pyscratchdet lmdb`"),
        ("build/tools/convert_imageset.bin a b c", "here it is `pyscratchdet lmdb`"),
        ("caffe", "here it is `pyscratchdet train`"),
        ("caffe -gpu 0 time --model=x", "here it is `pyscratchdet time`"),
        ("caffe device_query", "here it is `pyscratchdet doctor`"),
        ("device_query", "here it is `pyscratchdet doctor`"),
        ("./mine.py", "`python -m pyscratchdet.caffe mine.py` runs a script written for Caffe"),
        ("upgrade", 'did you mean "upgrade-net"?'),
        ("nothing", "pyscratchdet --help lists the commands"),
    ],
)
def test_caffes_names_are_told_what_stands_in_for_them(capsys, line, hint):
    assert main(line.split()) == 2
    assert capsys.readouterr().err == f'pyscratchdet: unknown command "{line.split()[0]}"; {hint}\n'


def test_the_hints_are_those_of_the_page(capsys):
    """Each row of the page for those who come from Caffe: a name that is typed there gets that row's command."""
    page = (Path(__file__).parents[2] / "docs" / "from_caffe" / "index.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    names = [(name, now) for then, now in rows for name in re.findall(r"`([^`]+)`", then) if name[:6] != "import"]
    assert len(names) > 12
    for name, now in names:
        words = name.removeprefix("python ").split()
        if words[0] not in COMMANDS:
            main(words)
            told = re.search("`(.+)`", capsys.readouterr().err)
            assert told[1] in now
