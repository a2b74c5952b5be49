"""One modality of a batch -> Features. transformers, torchvision and torchaudio load only when an encoder is made."""

from mmfuse.encoders.cnn import CNNEncoder
from mmfuse.encoders.feature import FeatureEncoder
from mmfuse.encoders.ft_transformer import FTTransformerEncoder
from mmfuse.encoders.projection import ProjectionEncoder
from mmfuse.encoders.skip_absent import SkipAbsent
from mmfuse.encoders.spectrogram import SpectrogramEncoder
from mmfuse.encoders.speech import SpeechEncoder
from mmfuse.encoders.tabular import TabularEncoder
from mmfuse.encoders.text import TextEncoder
from mmfuse.encoders.transformer import TransformerEncoder
from mmfuse.encoders.vit import ViTEncoder

ENCODERS = {
    "CNNEncoder": CNNEncoder,
    "FTTransformerEncoder": FTTransformerEncoder,
    "FeatureEncoder": FeatureEncoder,
    "ProjectionEncoder": ProjectionEncoder,
    "SkipAbsent": SkipAbsent,
    "SpectrogramEncoder": SpectrogramEncoder,
    "SpeechEncoder": SpeechEncoder,
    "TabularEncoder": TabularEncoder,
    "TextEncoder": TextEncoder,
    "TransformerEncoder": TransformerEncoder,
    "ViTEncoder": ViTEncoder,
}

__all__ = [
    "ENCODERS",
    "CNNEncoder",
    "FTTransformerEncoder",
    "FeatureEncoder",
    "ProjectionEncoder",
    "SkipAbsent",
    "SpectrogramEncoder",
    "SpeechEncoder",
    "TabularEncoder",
    "TextEncoder",
    "TransformerEncoder",
    "ViTEncoder",
]
