"""Training autoencoders, the codecs of latent diffusion: from pictures to a codec's folder."""

from inkwash.autoencoding.recipe import CodecRecipe, CodecTrain
from inkwash.autoencoding.train import train_codec

__all__ = ["CodecRecipe", "CodecTrain", "train_codec"]
