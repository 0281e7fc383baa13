"""Channels of another kind than those that heads are trained with.

Needs `pip install audiomentations pyroomacoustics`. For `evaluate.py`, with
this folder in PYTHONPATH: `--channel='!name:other_channels.OtherChannel'`.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch

from speechbrain_ext.augment.interventions import Intervention


@dataclass
class OtherChannel(Intervention):
    """Shelving filters, a simulated room, white noise and clipping.

    Arguments
    ---------
    seed : int
        Another seed gives every key another channel.
    sample_rate : int
        In Hz.
    """

    def __call__(self, wav, key):
        """[time] -> [time]."""
        import audiomentations as am  # pytest, which has none, reads this file

        # The library draws from the generators of the process.
        seed = int(self.generator(key).integers(2**31))
        random.seed(seed)
        np.random.seed(seed)
        gains = {"min_gain_db": -15, "max_gain_db": 15, "p": 0.7}
        sizes = {f"min_size_{axis}": 2 for axis in "xy"}
        sizes |= {f"max_size_{axis}": 6 for axis in "xy"}
        channel = am.Compose(
            [
                am.LowShelfFilter(**gains),
                am.HighShelfFilter(**gains),
                am.PeakingFilter(**gains),
                am.LowPassFilter(2500, 7500, p=0.4),
                am.HighPassFilter(60, 500, p=0.4),
                am.RoomSimulator(
                    **sizes,
                    min_size_z=2.4,
                    max_size_z=3.0,
                    max_order=3,
                    leave_length_unchanged=True,
                    p=0.6,
                ),
                am.AddGaussianSNR(min_snr_db=8, max_snr_db=30, p=0.8),
                am.ClippingDistortion(max_percentile_threshold=10, p=0.2),
            ]
        )
        moved = channel(wav.numpy().astype(np.float32), self.sample_rate)
        moved = moved / max(1.0, np.abs(moved).max())
        return torch.from_numpy(np.ascontiguousarray(moved, np.float32))
