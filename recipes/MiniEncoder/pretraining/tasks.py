"""What the mini encoder is trained to do: four tasks on its hidden states.

- *distil*: every hidden state predicts, by one linear map, the frames of a
  layer of the teacher, which heard the clip without the random channel.
- *statistics*: the mean over time of a layer predicts means and deviations of
  the log-mel bands, so that the second-order statistics which tell voices
  apart can be read linearly from a mean.
- *speaker*: the mean of a layer tells the pseudo-speakers apart, through a
  random channel each (only for synthetic speech, whose speaker is known).
- *word*: the same for the made-up words.
"""

import torch
from speechbrain.lobes.models.ECAPA_TDNN import Classifier
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper

from speechbrain_ext.lobes.log_mel import LogMelStatistics


def frame_mask(counts, n_frames):
    """True for the frames of each utterance, [B, frames].

    Example
    -------
    >>> frame_mask(torch.tensor([1, 2]), 2).tolist()
    [[True, False], [True, True]]
    """
    return torch.arange(n_frames, device=counts.device) < counts[:, None]


def masked_mean(frames, mask):
    """Mean of [B, frames, dim] over the frames of the mask, [B, dim]."""
    weight = mask[..., None].to(frames)
    return (frames * weight).sum(1) / weight.sum(1)


class Distillation(torch.nn.Module):
    """Layers of the teacher from layers of the student, frame by frame.

    The linear heads start as the identity, for a student that starts from the
    teacher's weights. Differences are measured in the teacher's standard
    deviations.

    Arguments
    ---------
    dim : int
        Width of teacher and student.
    n_layers : int
        Pairs of layers.
    cosine : float
        Weight of ``1 - cosine`` beside the smooth L1 loss.
    """

    def __init__(self, dim, n_layers, cosine=0.5):
        super().__init__()
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(dim, dim) for _ in range(n_layers)
        )
        for head in self.heads:
            torch.nn.init.eye_(head.weight)
            torch.nn.init.zeros_(head.bias)
        self.cosine = cosine
        self.register_buffer("mean", torch.zeros(n_layers, dim))
        self.register_buffer("std", torch.ones(n_layers, dim))

    def fit_statistics(self, frames):
        """Take mean and deviation of frames [N, layers, dim]."""
        self.std, self.mean = torch.std_mean(frames.float(), dim=0)
        self.std.clamp_(min=1e-3)

    def forward(self, hidden, targets, mask):
        """Loss a layer.

        Arguments
        ---------
        hidden : list of torch.Tensor
            Student's layers, each [B, frames, dim].
        targets : torch.Tensor
            Teacher's, [B, frames, layers, dim].
        mask : torch.Tensor
            True for frames that count, [B, frames].

        Returns
        -------
        torch.Tensor
            [layers].
        """
        losses = []
        for number, (head, frames) in enumerate(zip(self.heads, hidden)):
            mean, std = self.mean[number], self.std[number]
            ours = (head(frames[mask]) - mean) / std
            theirs = (targets[:, :, number][mask].float() - mean) / std
            loss = torch.nn.functional.smooth_l1_loss(ours, theirs)
            angle = 1 - torch.cosine_similarity(ours, theirs, dim=-1).mean()
            losses.append(loss + self.cosine * angle)
        return torch.stack(losses)


class Statistics(torch.nn.Module):
    """Mean and deviations of the log-mel bands from the mean of a layer.

    Arguments
    ---------
    dim : int
        Width of the student.
    """

    def __init__(self, dim):
        super().__init__()
        self.log_mel = LogMelStatistics()
        # Mean, deviation and deviation of the difference; no segments, whose
        # order a mean over time cannot know.
        size = 3 * self.log_mel.dim // (3 + self.log_mel.n_segments)
        self.head = torch.nn.Linear(dim, size)
        self.normalise = torch.nn.BatchNorm1d(size, affine=False, momentum=0.01)

    def forward(self, pooled, wavs, lengths):
        """Smooth L1 loss, in standard deviations of the statistics."""
        relative = lengths / wavs.shape[1]
        wanted = self.log_mel(wavs, relative)[:, 0, : self.head.out_features]
        return torch.nn.functional.smooth_l1_loss(
            self.head(pooled), self.normalise(wanted)
        )


class Labels(torch.nn.Module):
    """Angular-margin classification of pooled vectors, where labelled.

    Arguments
    ---------
    dim : int
        Width of the student.
    n_labels : int
        Classes; 0 makes a task that is always skipped.
    width : int
        Of the linear projection in which the angles are.
    margin, scale : float
        See SpeechBrain's ``AdditiveAngularMargin``.
    """

    def __init__(self, dim, n_labels, width=128, margin=0.1, scale=20.0):
        super().__init__()
        self.classifier = Classifier(
            dim, lin_blocks=1, lin_neurons=width, out_neurons=max(n_labels, 1)
        )
        self.loss = LogSoftmaxWrapper(AdditiveAngularMargin(margin, scale))

    def forward(self, pooled, labels):
        """Cross-entropy and accuracy of the clips whose label is not -1."""
        known = labels >= 0
        if known.sum() < 2:  # batch normalisation needs two
            zero = pooled.sum() * 0
            return zero, None
        outputs = self.classifier(pooled[known][:, None])
        loss = self.loss(outputs, labels[known][:, None])
        correct = outputs[:, 0].argmax(1) == labels[known]
        return loss, correct.float().mean()


class Tasks(torch.nn.Module):
    """All four tasks.

    Arguments
    ---------
    dim : int
        Width of teacher and student.
    n_layers : int
        Hidden states of the student, each with a layer of the teacher.
    n_speakers, n_words : int
        Labels of the synthetic speech.
    layers : dict
        Task (``statistics``, ``speaker``, ``word``) -> hidden state.
    weights : dict
        Task -> weight of its loss.
    """

    def __init__(self, dim, n_layers, n_speakers, n_words, layers, weights):
        super().__init__()
        self.distil = Distillation(dim, n_layers)
        self.statistics = Statistics(dim)
        self.speaker = Labels(dim, n_speakers)
        self.word = Labels(dim, n_words)
        self.layers, self.weights = dict(layers), dict(weights)

    def forward(self, hidden, batch):
        """Weighted sum of the losses, and its parts for the log.

        Arguments
        ---------
        hidden : list of torch.Tensor
            Hidden states, each [B, frames, dim].
        batch : dict
            See ``Crops.collate``.

        Returns
        -------
        loss : torch.Tensor
            To be minimised.
        parts : dict
            Name -> float.
        """
        mask = frame_mask(batch["counts"], hidden[0].shape[1])
        by_layer = self.distil(hidden, batch["targets"], mask)
        pooled = {
            task: masked_mean(hidden[layer], mask)
            for task, layer in self.layers.items()
        }
        losses = {
            "distil": by_layer.mean(),
            "statistics": self.statistics(
                pooled["statistics"], batch["wavs"], batch["lengths"]
            ),
        }
        parts = {f"distil{n}": x.item() for n, x in enumerate(by_layer)}
        for task, labels in (("speaker", "speakers"), ("word", "words")):
            module = getattr(self, task)
            losses[task], accuracy = module(pooled[task], batch[labels])
            if accuracy is not None:
                parts[f"{task}_accuracy"] = accuracy.item()
        parts |= {name: loss.item() for name, loss in losses.items()}
        return sum(self.weights[n] * losses[n] for n in losses), parts
