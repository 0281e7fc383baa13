"""Interventional post-training of speech foundation models, for SpeechBrain.

The sub-packages carry the names of their SpeechBrain counterparts: ``dataio``,
``augment``, ``lobes``, ``nnet``, ``inference``, ``utils``; ``synthesis`` and
``evaluation`` have none.
"""

__version__ = "0.1.0"
