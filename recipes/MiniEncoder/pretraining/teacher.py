"""The teacher: its hidden states of all clips, and weights to start from."""

from pathlib import Path

import numpy as np
import torch
import transformers
from clips import FRAME, compute_once
from tqdm import tqdm

from speechbrain_ext.lobes.model_files import find_model
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import digest

# Parts of a transformer layer of wav2vec 2.0 -> those of Moonshine.
PARTS = {
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.out_proj": "self_attn.o_proj",
    "layer_norm": "input_layernorm",
    "final_layer_norm": "post_attention_layernorm",
    "feed_forward.intermediate_dense": "mlp.fc1",
    "feed_forward.output_dense": "mlp.fc2",
}


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
        If the model is not found or is not a Moonshine model.
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

    def targets(self, clips, folder):
        """Hidden states of all clips, computed once.

        Arguments
        ---------
        clips : Clips
            See ``clips.py``.
        folder : str or Path
            Keeps them: float16, 3 kB per frame with five layers of 288.

        Returns
        -------
        numpy.memmap
            [frames of all clips, layers, dim].
        """
        key = digest([self.identity, clips.digest])
        path = Path(folder) / f"targets-{key}.npy"
        compute_once(path, lambda free: self._compute(clips, free))
        return np.load(path, mmap_mode="r")

    def _compute(self, clips, path):
        shape = int(clips.frame_starts[-1]), len(self.layers), self.dim
        out = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        # Clips of equal length together, so that nothing is padded.
        batches = []
        for length in np.unique(clips.lengths):
            numbers = np.flatnonzero(clips.lengths == length)
            size = max(1, 60 * 16000 // length)  # one minute at a time
            batches += np.split(numbers, range(size, len(numbers), size))
        for batch in tqdm(batches, "teacher", dynamic_ncols=True):
            wavs = torch.stack([clips.audio(number) for number in batch])
            for number, hidden in zip(batch, self(wavs)):
                start = clips.frame_starts[number]
                out[start : start + len(hidden)] = hidden.numpy()
        out.flush()

    @torch.no_grad()
    def initialise(self, student, mean, std):
        """Copies what fits into a student of the same width.

        The filters of the convolutions (of the second one those that the
        third uses most), and whole transformer layers without their rotary
        positions. The student has other normalisations and a convolution for
        positions: it has to be trained, but starts far ahead.

        Arguments
        ---------
        student : transformers.Wav2Vec2Model
            Is changed.
        mean, std : torch.Tensor
            Of the teacher's first hidden state, [dim].

        Raises
        ------
        InputError
            If its width or its frames are not the teacher's.
        """
        teacher, config = self.encoder, student.config
        if config.hidden_size != self.dim:
            raise InputError(
                f"The width is {config.hidden_size}, but the teacher's "
                f"{self.dim}: they must be the same"
            )
        if np.prod(config.conv_stride) != FRAME:
            raise InputError(
                f"conv_stride is {list(config.conv_stride)}: the product must "
                f"be {FRAME}, the samples from frame to frame of the teacher"
            )
        convs = [layer.conv for layer in student.feature_extractor.conv_layers]
        used = teacher.conv3.weight.norm(dim=(0, 2))
        kept = used.topk(convs[1].out_channels)[1]
        convs[0].weight.copy_(teacher.conv1.weight)
        convs[1].weight.copy_(teacher.conv2.weight[kept])
        convs[1].bias.copy_(teacher.conv2.bias[kept])
        convs[2].weight.copy_(teacher.conv3.weight[:, kept])
        convs[2].bias.copy_(teacher.conv3.bias)
        for layer, number in zip(student.encoder.layers, self.copied):
            for ours, theirs in PARTS.items():
                weights = teacher.layers[number].get_submodule(theirs)
                # Ours have biases that Moonshine's have not.
                layer.get_submodule(ours).load_state_dict(
                    weights.state_dict(), strict=False
                )
        student.encoder.layer_norm.weight.copy_(teacher.layer_norm.weight)
        # The first hidden state on the scale of the teacher's.
        projection = student.feature_projection.projection
        scale = std.mean() / projection.in_features**0.5
        projection.weight.normal_(0, scale.item())
        projection.bias.copy_(mean)
