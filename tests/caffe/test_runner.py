"""Whole scripts through `python -m pyscratchdet.caffe`, each in its own process."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyscratchdet.caffe.runner import Tools, guess_fork, substitute
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import read

ROOT = Path(__file__).parents[2]

# In the manner of SSD's generators: Python 2, star import, job file, run at once.
SCRIPT = """
from __future__ import print_function
import sys
sys.path.append("./python")
import caffe
from caffe.model_libs import *
from google.protobuf import text_format
import math, os, shutil, stat, subprocess

save_dir = "models/tiny"
job_file = "{}/job.sh".format(save_dir)
make_if_not_exist(save_dir)
check_if_exist("data/labelmap.prototxt")
net = caffe.NetSpec()
net.data, net.label = CreateAnnotatedDataLayer("data/lmdb", batch_size=5 / 2, label_map_file="data/labelmap.prototxt")
ConvBNLayer(net, net.keys()[0], "c", True, True, 7, 3, 1, 1)
sizes = []
for ratio in xrange(20, 91, (90 - 20) / 3):
    sizes.append(ratio)
solver = caffe_pb2.SolverParameter(train_net="t", iter_size=9 / 4, stepvalue=sizes)
with open(save_dir + "/train.prototxt", "w") as f:
    print('name: "{}"'.format("tiny"), file=f)
    print(net.to_proto(), file=f)
with open(save_dir + "/solver.prototxt", "w") as f:
    print(solver, file=f)
with open(job_file, "w") as f:
    f.write("cd {}\\n".format(os.getcwd()))
    f.write("./build/tools/caffe --version > started.txt\\n")
    f.write("echo ran --gpu 0,1 >> started.txt\\n")
os.chmod(job_file, stat.S_IRWXU)
print("status", subprocess.call(job_file, shell=True))
"""


def run(folder, *arguments, script=SCRIPT, path=""):
    (folder / "script.py").write_text(script)
    return subprocess.run(
        [sys.executable, "-m", "pyscratchdet.caffe", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *([path] if path else [])])},
        check=False,
    )


def test_script_writes_nets_and_starts_our_tools(tmp_path):
    made = run(tmp_path, "--gpu", "", "script.py")
    assert made.returncode == 0, made.stderr
    assert made.stdout == "status 0\n"
    assert "data/labelmap.prototxt does not exist" in made.stderr
    net = read(tmp_path / "models/tiny/train.prototxt", caffe_pb2.NetParameter)
    assert net.name == "tiny"
    assert net.layer[0].data_param.batch_size == 2
    assert net.layer[1].bottom[0] == "data"
    assert net.layer[2].batch_norm_param.eps == pytest.approx(0.001, rel=1e-6)  # float32
    solver = read(tmp_path / "models/tiny/solver.prototxt", caffe_pb2.SolverParameter)
    assert (solver.iter_size, list(solver.stepvalue)) == (2, [20, 43, 66, 89])
    assert (tmp_path / "started.txt").read_text().splitlines()[0].startswith("pyscratchdet ")
    # The job file itself stays as the script wrote it.
    assert "./build/tools/caffe --version" in (tmp_path / "models/tiny/job.sh").read_text()


def test_no_train_starts_nothing(tmp_path):
    made = run(tmp_path, "--no-train", "--fork", "refinedet", "script.py")
    assert made.returncode == 0
    assert "not started (--no-train): models/tiny/job.sh" in made.stderr
    assert not (tmp_path / "started.txt").exists()
    net = read(tmp_path / "models/tiny/train.prototxt", caffe_pb2.NetParameter)
    assert not net.layer[2].HasField("batch_norm_param")


def test_the_modules_a_script_imports(tmp_path):
    script = """
import caffe, caffe.proto.caffe_pb2 as pb, caffe.net_spec, caffe.model_libs, caffe.draw
from caffe import layers as L, params as P, to_proto
import pyscratchdet.caffe, helper
assert caffe is pyscratchdet.caffe and caffe.net_spec is pyscratchdet.caffe.net_spec
assert pb.NetParameter is caffe.proto.caffe_pb2.NetParameter
assert caffe.net_spec.__spec__.name == "pyscratchdet.caffe.net_spec"
assert (caffe.TRAIN, caffe.TEST) == (0, 1)
import sys
print sys.argv[1:], __name__, __file__, helper.half(7)
sys.exit(3)
"""
    (tmp_path / "helper.py").write_text("def half(x):\n    if x == 0: print 'nothing',\n    return x / 2\n")
    made = run(tmp_path, "script.py", "a", "--b", script=script)
    assert made.stdout == "['a', '--b'] __main__ script.py 3\n"
    assert made.returncode == 3


@pytest.mark.parametrize("folder", ["python/caffe", "caffe"])
def test_a_forks_own_modules_are_used(tmp_path, folder):
    """DSOD, TextBoxes++ and RRC live by their own python/caffe/model_libs.py."""
    (tmp_path / folder).mkdir(parents=True)
    body = "import caffe\nfrom caffe import layers as L\ndef MyBody(net):\n    print 'mine', 7 / 2, range(2) + [5]\n"
    (tmp_path / folder / "model_libs.py").write_text(body)
    (tmp_path / folder / "anchors.py").write_text("sizes = [3 / 2]")
    (tmp_path / folder / "net_spec.py").write_text("raise SystemExit('ours stands in')")
    script = "import caffe, caffe.net_spec\nfrom caffe.model_libs import *\nfrom caffe.anchors import sizes\n"
    script += "MyBody(caffe.NetSpec())\nprint(sizes)\n"
    made = run(tmp_path, "script.py", script=script)
    assert made.stdout == "mine 3 [0, 1, 5]\n[1]\n", made.stderr
    assert f"caffe.model_libs is {tmp_path / folder / 'model_libs.py'}" in made.stderr
    published = run(tmp_path, "--fork", "ssd", "script.py", script="from caffe.model_libs import *\nVGGNetBody")
    assert published.returncode == 0, published.stderr
    assert "model_libs as ssd published it" in published.stderr


def test_model_libs_beside_the_script_are_used(tmp_path):
    """DSOD's repository has them there, to be copied into python/caffe, which comes first."""
    (tmp_path / "model_libs.py").write_text("def MyBody():\n    print 'beside'\n")
    script = "from caffe.model_libs import *\nMyBody()\n"
    assert run(tmp_path, "script.py", script=script).stdout == "beside\n"
    (tmp_path / "python" / "caffe").mkdir(parents=True)
    (tmp_path / "python" / "caffe" / "model_libs.py").write_text("def MyBody():\n    print 'own'\n")
    assert run(tmp_path, "script.py", script=script).stdout == "own\n"


@pytest.mark.parametrize("call", ["caffe.NCCL(None, '')", "caffe.NCCL.new_uid()"])
def test_nccl_is_refused_with_what_to_do(tmp_path, call):
    made = run(tmp_path, "script.py", script=f"import caffe\nprint(caffe.has_nccl())\n{call}\n")
    assert made.returncode == 2
    assert "pyscratchdet train --gpu 0,1" in made.stderr


@pytest.mark.parametrize(("inserted", "half"), [(True, "3"), (False, "3.5")])
def test_python2_modules_on_the_path_are_read_as_such(tmp_path, inserted, half):
    """A folder that the script adds is the script's own; elsewhere a module is Python 2 where Python 3 refuses it."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "helper_py2.py").write_text("def greet():\n    print 'hello from', 7 / 2\n")
    (library / "helper.py").write_text("half = 7 / 2\n")
    script = "import helper, helper_py2\nhelper_py2.greet()\nprint(helper.half)\n"
    if inserted:
        script = f"import sys\nsys.path.insert(0, '../library')\n{script}"
    (tmp_path / "scripts").mkdir()
    made = run(tmp_path / "scripts", "script.py", script=script, path="" if inserted else str(library))
    assert made.stdout == f"hello from 3\n{half}\n", made.stderr


def test_python2_layers_run(tmp_path):
    (tmp_path / "old_layer.py").write_text("""
import caffe
class Half(caffe.Layer):
    def setup(self, bottom, top):
        print 'half of', len(bottom)
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data * (7 / 2)
""")
    (tmp_path / "net.prototxt").write_text("""
        input: "x" input_shape { dim: 1 dim: 1 }
        layer { name: "t" type: "Python" bottom: "x" top: "y" python_param { module: "old_layer" layer: "Half" } }
    """)
    script = "import caffe\nnet = caffe.Net('net.prototxt', caffe.TEST)\nnet.blobs['x'].data[...] = 2\n"
    made = run(tmp_path, "script.py", script=script + "print net.forward()['y'].tolist()")
    assert made.stdout == "half of 1\n[[6.0]]\n", made.stderr


def test_scripts_that_look_into_the_compiled_module(tmp_path):
    """Published merge_bn.py scripts tell a layer's weights by their type."""
    (tmp_path / "net.prototxt").write_text("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 4 } }
    """)
    script = """
import caffe
from caffe._caffe import SGDSolver
net = caffe.Net("net.prototxt", caffe.TEST)
print [key for key in net.params.iterkeys() if type(net.params[key]) is caffe._caffe.BlobVec], len(net.params["fc"])
print type(net.layers[1].blobs) is caffe._caffe.BlobVec, isinstance(net, caffe._caffe.Net)
"""
    made = run(tmp_path, "script.py", script=script)
    assert made.stdout == "['fc'] 2\nTrue True\n", made.stderr


def test_the_log_is_shown_where_a_script_asks_for_it(tmp_path):
    script = "import caffe\ntimer = caffe.Timer()\ntimer.start()\ntimer.stop()\nassert timer.ms >= 0\n"
    script += "caffe.log('unseen')\ncaffe.init_log()\ncaffe.log('100 % seen')\ncaffe.init_log(2)\ncaffe.log('unseen')\n"
    script += "print caffe.has_nccl(), caffe.solver_count()\ncaffe.set_solver_count(2)\n"
    made = run(tmp_path, "script.py", script=script)
    assert made.stdout == "False 1\n"
    assert re.search(r"^I.* script\.py:8\] 100 % seen$", made.stderr, re.M)
    assert "unseen" not in made.stderr
    assert "script.py:12: scripts train on one device, expected a solver count of 1 and found 2" in made.stderr


def test_draw_net_as_bvlcs_script_calls_it(tmp_path):
    script = """
import caffe.draw
from caffe.proto import caffe_pb2
from google.protobuf import text_format
net = caffe_pb2.NetParameter()
text_format.Merge('layer { name: "a" type: "Input" top: "a" }', net)
caffe.draw.draw_net_to_file(net, "a.svg", "LR", None, True)
"""
    made = run(tmp_path, "script.py", script=script)
    assert made.returncode == 0, made.stderr
    assert "svg" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "import caffe\ncaffe.Net('no.prototxt', 'no.caffemodel', 1)",
            "script.py:2: Could not open file no.prototxt: No",
        ),
        ("import caffe\ncaffe.Net(None, caffe.TEST)", "script.py:2: not a path, expected the path of a file"),
        ("import caffe\ncaffe.get_solver('no.prototxt')", "script.py:2: cannot read no.prototxt: No such file"),
        ("x = 1\nopen('data/labelmap_voc.prototxt')", r"script.py:2: no such file: data/labelmap_voc.prototxt"),
        ("import caffe\ncaffe.layers.Convolutoin()", 'script.py:2: unknown layer type "Convolutoin"'),
        ("def f(:", "script.py:1:7: cannot read this as Python 2 or 3"),
    ],
)
def test_bad_input_is_one_message(script, message, tmp_path):
    made = run(tmp_path, "script.py", script=script)
    assert made.returncode == 2
    assert message in made.stderr
    assert "Traceback" not in made.stderr


def test_cpu_whatever_the_script_asks_for(tmp_path):
    made = run(tmp_path, "--gpu", "", "script.py", script="import caffe\ncaffe.set_mode_gpu()\nprint 'went on'")
    assert (made.returncode, made.stdout) == (0, "went on\n")


def test_missing_script(tmp_path):
    made = run(tmp_path, "other.py")
    assert (made.returncode, made.stdout) == (2, "")
    assert "cannot read other.py" in made.stderr


@pytest.mark.parametrize(
    ("source", "fork"),
    [
        ("CreateRefineDetHead(net)", "refinedet"),
        ("libs.Resnet34rootV2_res(net)", "scratchdet"),
        ("VGGNetBody(net)", "ssd"),
    ],
)
def test_the_fork_follows_from_the_functions_used(source, fork):
    assert guess_fork(ast.parse(source)) == fork


def test_substitution_of_programs():
    job = './build/tools/caffe train \\\n--solver="s" --gpu 0,1 2>&1\n/opt/caffe/build/tools/get_image_size a b'
    python = f"{sys.executable} -m pyscratchdet"
    assert (
        substitute(job) == f'{python} train --allow-python \\\n--solver="s" --gpu 0,1 2>&1\n{python} get-image-size a b'
    )
    assert "--gpu 3 2>&1" in substitute(job, "3")
    assert "--gpu" not in substitute(job, "")
    assert substitute("ls build/tools; caffe train") == "ls build/tools; caffe train"


def test_commands_that_are_not_caffes_stay():
    tools = Tools()
    assert tools.command(["ls", "-l"]) == ["ls", "-l"]
    assert tools.command("echo hello") == "echo hello"
    assert tools.command(["./build/tools/caffe", "time"])[-2:] == ["time", "--allow-python"]
