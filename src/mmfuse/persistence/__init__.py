"""Models saved as a folder and built again from it: no pickle, no network, no code from the folder.

``config.json`` says which classes were called with which keywords, ``model.safetensors`` holds the weights,
``tokenizers/`` the tokenizers, ``MANIFEST.json`` the size and sha256 of all of them, ``README.md`` a model card.
"""

from mmfuse._files import CorruptCheckpointError, UnsafeFileError
from mmfuse.persistence.reading import load
from mmfuse.persistence.writing import save

__all__ = ["CorruptCheckpointError", "UnsafeFileError", "load", "save"]
