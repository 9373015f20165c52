"""The other data layers: what they hand out, in which order, and what they draw."""

import json
import socket

import h5py
import numpy as np
import pytest
from google.protobuf import text_format

from pyscratchdet.data.annoset import AnnosetOptions, write_annoset
from pyscratchdet.data.lists import read_list
from pyscratchdet.errors import DataError, FileError, LayerError
from pyscratchdet.layers.base import Context, layer_class
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom, LibcRandom

WINDOWS = "5 0.9 10 20 49 79\n3 0.2 0 0 39 29"


def make(text: str, phase: int = caffe_pb2.TEST, seed: int = 1):
    param = text_format.Parse(text, caffe_pb2.LayerParameter())
    layer = layer_class(param.type)(param, Context(phase=phase, random=CaffeRandom(seed)))
    layer.setup([])
    return layer


def outputs(layer) -> list[np.ndarray]:
    return [top.numpy() for top in layer.forward([], [])]


@pytest.fixture(scope="module")
def labelled(voc, tmp_path_factory):
    """A classification database of 5 raw pictures of 23 x 19, and the list of their files."""
    folder = tmp_path_factory.mktemp("labelled")
    entries = [(picture, str(index * 3)) for index, (picture, _) in enumerate(read_list(voc / "list.txt")[:5])]
    write_annoset(f"{voc}/", entries, folder / "db", AnnosetOptions(resize_width=23, resize_height=19))
    (folder / "list.txt").write_text("".join(f"{picture} {label}\n" for picture, label in entries))
    return folder


def data_text(folder, transform: str = "") -> str:
    return f"""type: "Data" top: "data" top: "label" transform_param {{ {transform} }}
        data_param {{ source: "{folder}/db" batch_size: 2 backend: LMDB }}"""


def test_data_goes_round(labelled):
    layer = make(data_text(labelled))
    assert layer.reshape([]) == [(2, 3, 19, 23), (2,)]
    labels = np.concatenate([outputs(layer)[1] for _ in range(4)])
    assert labels.tolist() == [0, 3, 6, 9, 12, 0, 3, 6]


def test_data_and_image_data_agree(labelled, voc):
    from_database = outputs(make(data_text(labelled, "mean_value: 90 scale: 0.5")))
    text = f"""type: "ImageData" top: "data" top: "label" transform_param {{ mean_value: 90 scale: 0.5 }}
        image_data_param {{ source: "{labelled}/list.txt" root_folder: "{voc}/" batch_size: 2
        new_height: 19 new_width: 23 }}"""
    from_files = outputs(make(text))
    np.testing.assert_array_equal(from_database[0], from_files[0])
    np.testing.assert_array_equal(from_database[1], from_files[1])


def test_mirror_and_crop_follow_the_transformers_stream(labelled):
    whole = outputs(make(data_text(labelled)))[0]
    layer = make(data_text(labelled, "mirror: true crop_size: 11"), caffe_pb2.TRAIN, seed=41)
    main = CaffeRandom(41)
    main.raw(2)  # the reading thread, and the first of two seeds for the transformer
    own = CaffeRandom(main.integer())
    for picture, found in zip(whole, outputs(layer)[0], strict=True):
        is_mirrored, top, left = own.below(2), own.below(19 - 11 + 1), own.below(23 - 11 + 1)
        part = picture[:, top : top + 11, left : left + 11]
        np.testing.assert_array_equal(found, part[..., ::-1] if is_mirrored else part)


def test_lists_of_pictures_name_the_line(labelled, voc, tmp_path):
    picture = (labelled / "list.txt").read_text().split()[0]
    text = f"""type: "ImageData" top: "data" top: "label" image_data_param {{ source: "{tmp_path}/list.txt"
        root_folder: "{voc}/" batch_size: 2 new_height: 7 new_width: 9 }}"""
    (tmp_path / "list.txt").write_text(f"\ufeff{picture} 3\nmy missing.jpg 4\n")
    with pytest.raises(FileError, match=r"list\.txt:2: cannot read .*my missing\.jpg"):
        outputs(make(text))
    (tmp_path / "list.txt").write_text(f"{picture} 3\n{picture} three\n")
    with pytest.raises(DataError, match=r"list\.txt:2: a line must be: path label"):
        make(text)


@pytest.mark.parametrize("kind", ["Data", "AnnotatedData"])
def test_without_a_database_the_net_may_say_the_shape(kind):
    """As in mean.prototxt of the cases: neither mean file nor database are there."""
    text = f"""name: "d" type: "{kind}" top: "data" top: "label" transform_param {{ mean_file: "none" %s }}
        data_param {{ source: "nowhere" batch_size: 4 backend: LMDB }}"""
    assert make(text % "crop_size: 227").reshape([])[0] == (4, 3, 227, 227)
    with pytest.raises(DataError, match='no database at nowhere, so the shape of top "data" is unknown') as caught:
        make(text % "").reshape([])
    assert caught.value.code == "data.no-database"


SIZES = {
    'type: "ImageData" image_data_param { source: "nowhere" new_height: 7 new_width: 9 %s }': (7, 9),
    'type: "ImageData" transform_param { crop_size: 5 } image_data_param { source: "nowhere" %s }': (
        5,
        5,
    ),
}


@pytest.mark.parametrize("is_color", [True, False])
@pytest.mark.parametrize("text", SIZES)
def test_without_a_list_the_settings_give_the_shape(caplog, text, is_color):
    layer = make('name: "d" top: "data" top: "label"' + text % f"is_color: {str(is_color).lower()}")
    shape = (3 if is_color else 1, *SIZES[text])
    for _ in range(2):
        assert layer.reshape([]) == [(1, *shape), (1,)]
    assumed = f'layer "d" (ImageData): there is no nowhere; pictures are assumed to be {"x".join(map(str, shape))}'
    assert caplog.messages == [assumed]
    with pytest.raises(FileError, match="cannot read nowhere"):
        layer.forward([], [])


def test_without_a_window_file_the_crop_gives_the_shape(caplog):
    text = """name: "w" type: "WindowData" top: "data" top: "label" transform_param { crop_size: 11 }
        window_data_param { source: "nowhere" batch_size: 2 }"""
    layer = make(text)
    assert layer.reshape([]) == [(2, 3, 11, 11), (2,)]
    assert caplog.messages == ['layer "w" (WindowData): there is no nowhere; pictures are assumed to be 3x11x11']
    with pytest.raises(FileError, match="cannot read nowhere"):
        layer.forward([], [])


def test_image_data_shuffles_each_round(labelled, voc):
    text = f"""type: "ImageData" top: "data" top: "label" image_data_param {{ source: "{labelled}/list.txt"
        root_folder: "{voc}/" batch_size: 5 new_height: 7 new_width: 9 shuffle: true }}"""
    layer = make(text, seed=43)
    shuffler = CaffeRandom(CaffeRandom(43).integer())
    expected = [0.0, 3.0, 6.0, 9.0, 12.0]
    for _ in range(3):
        shuffler.shuffle(expected)
        assert outputs(layer)[1].tolist() == expected


@pytest.mark.parametrize("shuffle", [False, True])
def test_hdf5_data(tmp_path, monkeypatch, shuffle):
    monkeypatch.chdir(tmp_path)
    for index, count in enumerate((3, 4)):
        with h5py.File(f"{index}.h5", "w") as file:
            file["data"] = np.arange(count * 5, dtype=np.float64).reshape(count, 5) + 100 * index
            file["label"] = np.arange(count) + 10 * index
    (tmp_path / "list").write_text("0.h5\n1.h5\n")
    text = f"""type: "HDF5Data" top: "data" top: "label" hdf5_data_param {{ source: "list" batch_size: 2
        shuffle: {"true" if shuffle else "false"} }}"""
    layer = make(text)
    assert layer.reshape([]) == [(2, 5), (2,)]
    labels = np.concatenate([outputs(layer)[1] for _ in range(7)]).tolist()
    if not shuffle:
        assert labels == [0, 1, 2, 10, 11, 12, 13] * 2
        return
    # The C library's generator: the files, then the rows of a file as it is loaded, and once more as it begins.
    random, files = LibcRandom(), [0, 1]
    random.shuffle(files)
    expected = []
    for turn in range(4):
        if turn == 2:
            random.shuffle(files)
        index = files[turn % 2]
        rows = [label + 10 * index for label in range(3 + index)]
        random.shuffle(rows)
        if turn:
            random.shuffle(rows)
        expected += rows
    assert labels == expected[:14]


def test_hdf5_data_faults(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    (tmp_path / "list").write_text(f"{tmp_path}/bad.h5")
    with pytest.raises(DataError) as caught:
        make(f'type: "HDF5Data" top: "data" hdf5_data_param {{ source: "{tmp_path}/list" batch_size: 1 }}')
    assert caught.value.code == "data.hdf5"


def test_memory_data():
    layer = make(
        'type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }'
    )
    with pytest.raises(LayerError):
        outputs(layer)
    data = np.arange(4 * 60, dtype=np.float32).reshape(4, 3, 4, 5)
    layer.set_arrays(data, np.float32([7, 8, 9, 6]))
    batches = [outputs(layer) for _ in range(3)]
    np.testing.assert_array_equal(batches[1][0], data[2:])
    assert [batch[1].tolist() for batch in batches] == [[7, 8], [9, 6], [7, 8]]
    with pytest.raises(LayerError):
        layer.set_arrays(data[:3], np.zeros(3))


def test_window_data(voc, tmp_path):
    import cv2

    picture = "VOC2007/JPEGImages/000001.jpg"
    (tmp_path / "windows").write_text(f"# 0\n{voc}/{picture}\n3\n138\n131\n2\n" + WINDOWS)
    layer = make(
        f"""type: "WindowData" top: "data" top: "label" transform_param {{ crop_size: 17 mean_value: 100 }}
        window_data_param {{ source: "{tmp_path}/windows" batch_size: 4 }}"""
    )
    assert layer.reshape([]) == [(4, 3, 17, 17), (4,)]
    data, labels = outputs(layer)
    assert labels.tolist() == [0, 0, 0, 5]
    image = cv2.imread(str(voc / picture))
    for index, (top, bottom, left, right) in ((0, (0, 30, 0, 40)), (3, (20, 80, 10, 50))):
        expected = cv2.resize(image[top:bottom, left:right], (17, 17)).transpose(2, 0, 1).astype(np.float32) - 100
        np.testing.assert_array_equal(data[index], expected)


@pytest.mark.parametrize(("window", "columns"), [("40 10 79 49", (0, 8)), ("-30 10 9 49", (11, 16))])
def test_window_beyond_its_picture_mirrored(tmp_path, window, columns):
    """Mirrored, the picture's part is turned round and what lies outside is on the other side."""
    import cv2

    cv2.imwrite(str(tmp_path / "p.png"), np.random.default_rng(8).integers(1, 255, (50, 60, 3), np.uint8))
    text = f"# 0\n{tmp_path}/p.png\n3\n50\n60\n2\n5 0.9 {window}\n3 0.2 {window}"
    (tmp_path / "windows").write_text(text)
    layer = make(
        f"""type: "WindowData" top: "data" top: "label" transform_param {{ crop_size: 16 mirror: true }}
        window_data_param {{ source: "{tmp_path}/windows" batch_size: 8 context_pad: 1 }}"""
    )
    data = outputs(layer)[0]
    filled = [tuple(np.flatnonzero((item != 0).any((0, 1)))[[0, -1]] + [0, 1]) for item in data]
    assert set(filled) == {columns, (16 - columns[1], 16 - columns[0])}
    plain, mirrored = (data[filled.index(where)] for where in (columns, (16 - columns[1], 16 - columns[0])))
    np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """13 frames of 32 x 24, each of one gray level: 10, 25, 40..."""
    import cv2

    path = tmp_path_factory.mktemp("video") / "levels.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 24))
    for index in range(13):
        writer.write(np.full((24, 32, 3), 10 + 15 * index, np.uint8))
    writer.release()
    return path


def video_text(path, more: str = "") -> str:
    return f"""type: "VideoData" top: "data" top: "label" transform_param {{ mean_value: 10 resize_param {{
        height: 15 width: 17 }} }} video_data_param {{ video_type: VIDEO video_file: "{path}" {more} }}
        data_param {{ batch_size: 3 }}"""


@pytest.mark.parametrize("skipped", [0, 1])
def test_video_data(video, skipped):
    layer = make(video_text(video, f"skip_frames: {skipped}"))
    assert layer.reshape([]) == [(3, 3, 15, 17), (3,)]
    for batch in range(2):
        data, labels = outputs(layer)
        assert labels.tolist() == [0, 0, 0]
        frames = (np.arange(3) + 3 * batch) * (skipped + 1) + skipped
        # The codec's rounding; frames are 15 levels apart.
        np.testing.assert_allclose(data.mean((1, 2, 3)), 15 * frames, atol=2)


def test_video_data_faults(video, tmp_path):
    layer = make(video_text(video))
    for _ in range(4):
        outputs(layer)
    with pytest.raises(DataError) as caught:
        outputs(layer)
    assert caught.value.code == "data.video-end"
    (tmp_path / "none.avi").write_bytes(b"no video")
    with pytest.raises(DataError) as caught:
        make(video_text(tmp_path / "none.avi")).reshape([])
    assert caught.value.code == "data.video"


def test_video_data_opens_no_address():
    """Whoever listens would see the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        port = server.getsockname()[1]
        with pytest.raises(DataError) as caught:
            make(video_text(f"tcp://127.0.0.1:{port}/a.avi")).forward([], [])
        assert caught.value.code == "data.video"
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["Data", "ImageData", "VideoData", "WindowData"])
def test_states_resume(kind, shuffle, labelled, voc, video, tmp_path):
    """Two and a half rounds in, in plain JSON."""
    transform = "mirror: true crop_size: 11"
    flag = "shuffle: true rand_skip: 3" if shuffle else ""
    (tmp_path / "windows").write_text(f"# 0\n{voc}/VOC2007/JPEGImages/000001.jpg\n3\n138\n131\n2\n{WINDOWS}")
    texts = {
        "Data": data_text(labelled, transform),
        "ImageData": f"""type: "ImageData" top: "data" top: "label" transform_param {{ {transform} }}
            image_data_param {{ source: "{labelled}/list.txt" root_folder: "{voc}/" batch_size: 2
            new_height: 19 new_width: 23 {flag} }}""",
        "VideoData": video_text(video).replace("batch_size: 3", "batch_size: 1"),
        "WindowData": f"""type: "WindowData" top: "data" top: "label" transform_param {{ {transform} }}
            window_data_param {{ source: "{tmp_path}/windows" batch_size: 4 }}""",
    }
    first, second = (make(texts[kind], caffe_pb2.TRAIN, seed=47) for _ in range(2))
    for _ in range(6):
        outputs(first)
    second.state = json.loads(json.dumps(first.state))
    for _ in range(4):
        for a, b in zip(outputs(first), outputs(second), strict=True):
            np.testing.assert_array_equal(a, b)


def test_data_is_shared_by_processes(labelled):
    param = text_format.Parse(data_text(labelled), caffe_pb2.LayerParameter())
    for rank in range(2):
        options = {"rank": rank, "world_size": 2}
        layer = layer_class("Data")(param, Context(caffe_pb2.TRAIN, CaffeRandom(1), options=options))
        layer.setup([])
        labels = np.concatenate([outputs(layer)[1] for _ in range(3)])
        assert labels.tolist() == [[0, 6, 12, 3, 9, 0], [3, 9, 0, 6, 12, 3]][rank]
