"""wav2vec 2.0 and XLSR of transformers: contrastive pre-training and CTC, by ESPnet's trainer."""
