"""Compare two recordings with numpy, onnxruntime and soundfile alone.

    python onnx_without_torch.py MODEL.onnx A.wav B.wav

The model is a file of speechbrain_ext.inference.onnx_export.export_onnx. Prints
the cosine of both, and whether it is above the model's threshold.
"""

import json
import sys

import numpy as np
import onnxruntime
import soundfile


def embed(session, path, subspace):
    """The vector of one file in a subspace, shape [D]."""
    wanted = session.get_modelmeta().custom_metadata_map["sample_rate"]
    wav, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != int(wanted):
        sys.exit(f"{path} has {rate} Hz: resample it to {wanted} Hz")
    # A batch of one, in its whole length. Shorter ones of a batch are padded
    # at their end, and their length is a part of the longest.
    inputs = {"wavs": wav.mean(axis=1)[None], "wav_lens": np.ones(1, "float32")}
    return session.run([subspace], inputs)[0][0]


def main(model, path_a, path_b):
    """Compare two files in the first subspace."""
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model, providers=providers)
    subspace = session.get_outputs()[0].name
    a, b = (embed(session, path, subspace) for path in (path_a, path_b))
    cosine = a @ b / np.sqrt(a @ a * (b @ b))
    about = session.get_modelmeta().custom_metadata_map
    threshold = json.loads(about["thresholds"])[subspace]
    verdict = "same" if cosine > threshold else "different"
    print(f"{verdict} {subspace}: {cosine:.3f}, threshold {threshold:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
