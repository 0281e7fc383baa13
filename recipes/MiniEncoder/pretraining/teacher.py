"""The teacher: its hidden states of all clips, and weights to start from."""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from filelock import FileLock
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_ext.lobes.model_files import find_model
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import digest, replacing

logger = get_logger(__name__)


class Teacher:
    """The encoder of a Moonshine model, frozen.

    Arguments
    ---------
    source : str
        Folder or hub id.
    layers : list of int
        Hidden states to learn from; 0 is the output of the convolutions.
    copied : list of int
        For each layer of the student, the teacher's layer it starts from.

    Raises
    ------
    InputError
        If the model is not found or is no Moonshine model.
    """

    def __init__(self, source, layers, copied):
        files = find_model(source)
        self.identity = [files.identity, layers]
        config = transformers.AutoConfig.from_pretrained(files.folder)
        if config.model_type != "moonshine":
            raise InputError(
                f"{source} is a {config.model_type} model: the teacher must "
                "be a Moonshine model, whose frames the student shares"
            )
        model = transformers.AutoModel.from_pretrained(files.folder)
        self.encoder = model.get_encoder().float().eval()
        self.encoder.requires_grad_(False)
        self.layers, self.copied = list(layers), list(copied)
        self.dim = config.hidden_size

    @torch.no_grad()
    def __call__(self, wavs):
        """Hidden states of clips of equal length, [B, frames, layers, dim]."""
        hidden = self.encoder(wavs, output_hidden_states=True).hidden_states
        return torch.stack([hidden[layer] for layer in self.layers], dim=2)

    def targets(self, clips, folder, batch_seconds=60.0):
        """Hidden states of all clips, computed once.

        Arguments
        ---------
        clips : Clips
            See ``clips.py``.
        folder : str or Path
            Keeps them: float16, 3 kB a frame with five layers of 288.
        batch_seconds : float
            Audio at a time.

        Returns
        -------
        numpy.memmap
            [frames of all clips, layers, dim].
        """
        key = digest([self.identity, clips.digest])
        path = Path(folder) / f"targets-{key}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                self._compute(clips, path, batch_seconds)
        return np.load(path, mmap_mode="r")

    def _compute(self, clips, path, batch_seconds):
        shape = (int(clips.frame_starts[-1]), len(self.layers), self.dim)
        by_length = {}
        for number, length in enumerate(clips.lengths):
            by_length.setdefault(int(length), []).append(number)
        batches = []
        for length, numbers in by_length.items():
            size = max(1, int(batch_seconds * 16000 / length))
            for start in range(0, len(numbers), size):
                batches.append(numbers[start : start + size])
        with replacing(path) as temporary:
            out = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            for batch in tqdm(batches, desc="teacher", dynamic_ncols=True):
                wavs = torch.stack([clips.audio(n) for n in batch])
                for number, hidden in zip(batch, self(wavs)):
                    start = clips.frame_starts[number]
                    out[start : start + len(hidden)] = hidden.numpy()
            out.flush()
            del out
        path.with_suffix(".json").write_text(json.dumps(self.identity))

    @torch.no_grad()
    def initialise(self, student):
        """Copies what fits into a student of the same width.

        The filters of the convolutions (of the second one those that the
        third uses most), and whole transformer layers without their rotary
        positions. The student has other normalisations and a convolution for
        positions: it has to be trained, but starts far ahead.
        """
        teacher = self.encoder
        convs = [layer.conv for layer in student.feature_extractor.conv_layers]
        kept = teacher.conv3.weight.norm(dim=(0, 2)).topk(
            convs[1].out_channels
        )[1]
        convs[0].weight.copy_(teacher.conv1.weight)
        convs[1].weight.copy_(teacher.conv2.weight[kept])
        convs[1].bias.copy_(teacher.conv2.bias[kept])
        convs[2].weight.copy_(teacher.conv3.weight[:, kept])
        convs[2].bias.copy_(teacher.conv3.bias)
        for layer, number in zip(student.encoder.layers, self.copied):
            copy_layer(layer, teacher.layers[number])
        student.encoder.layer_norm.weight.copy_(teacher.layer_norm.weight)


def copy_layer(ours, theirs):
    """A transformer layer of Moonshine into one of wav2vec 2.0."""
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = getattr(theirs.self_attn, name).weight
        getattr(ours.attention, name).weight.copy_(weight)
    ours.attention.out_proj.weight.copy_(theirs.self_attn.o_proj.weight)
    ours.layer_norm.weight.copy_(theirs.input_layernorm.weight)
    ours.final_layer_norm.weight.copy_(theirs.post_attention_layernorm.weight)
    ours.feed_forward.intermediate_dense.load_state_dict(
        theirs.mlp.fc1.state_dict()
    )
    ours.feed_forward.output_dense.load_state_dict(theirs.mlp.fc2.state_dict())
